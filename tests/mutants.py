"""The module broken on purpose, one line at a time: does a test, or a checked cell of a notebook, notice?

python tests/mutants.py          # every mutant, against its test and its notebook: `make mutants`, about ten minutes
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """In e4t_minimal/`file`, `right` (there exactly once) becomes `wrong`; `test` and `notebook` should each fail then."""

    name: str
    file: str
    right: str
    wrong: str
    test: str
    notebook: str
    quick: bool = False


MUTANTS = [
    Mutant(
        "sign of the guidance",
        "sample.py",
        "unconditional + guidance *",
        "unconditional - guidance *",
        "test_sample.py::test_without_s_it_is_the_stock_pipeline",
        "02",
        quick=True,
    ),
    Mutant(
        "Delta added instead of multiplied",
        "offsets.py",
        "(weight + weight * (left @ right.T))",
        "(weight + (left @ right.T))",
        "test_offsets.py::test_folded_is_live_is_merged",
        "05",
    ),
    Mutant(
        "class anchor dropped",
        "model.py",
        "return self.placeholder.class_embedding + offset, offset",
        "return offset, offset",
        "test_encoder.py::test_every_encoder_starts_as_the_class_word_and_learns",
        "04",
        quick=True,
    ),
    Mutant(
        "S* injected after the text encoder",
        "placeholder.py",
        "hook = self.base.text_encoder.get_input_embeddings().register_forward_hook(put)",
        "hook = self.base.text_encoder.text_model.final_layer_norm.register_forward_hook(put)",
        "test_placeholder.py::test_only_the_placeholder_changes_and_all_of_them",
        "03",
        quick=True,
    ),
    Mutant(
        "L2 on v* whole",
        "model.py",
        'embedding_l2(seen["offset"])',
        'embedding_l2(seen["embedding"])',
        "test_train.py::test_loss_is_diffusion_plus_weighted_l2_of_the_offset",
        "06",
    ),
    Mutant(
        "noise schedule reversed",
        "base.py",
        "self.scheduler.add_noise(latents, noise, t), target",
        "self.scheduler.add_noise(latents, noise, self.scheduler.config.num_train_timesteps - 1 - t), target",
        "test_train.py::test_noise_and_target_agree",
        "07",
        quick=True,
    ),
    Mutant(
        "offsets not applied to K",
        "offsets.py",
        "to_[qkv]$",
        "to_[qv]$",
        "test_offsets.py::test_zero_start_leaves_the_model_bit_equal",
        "05",
    ),
    Mutant(
        "features from the wrong timestep",
        "encoder.py",
        "            unet(z_t, t, hidden)\n",
        "            unet(z_t, 999 - t, hidden)\n",
        "test_encoder.py::test_half_a_pass_gives_the_features_of_a_whole_one",
        "04",
    ),
    Mutant(
        "the mask forgotten",
        "model.py",
        'error = error * data["mask"] /',
        'error = 0 * data["mask"] + error #',
        "test_train.py::test_mask_takes_the_background_out_of_the_loss",
        "08",
    ),
    Mutant(
        "S* predicted only once",
        "sample.py",
        "if concept:\n                embedding",
        "if concept and conditional is None:\n                embedding",
        "test_sample.py::test_s_is_predicted_again_at_every_step",
        "11",
    ),
]


def broken(mutant: Mutant | None, folder: Path) -> Path:
    """A copy of the project in `folder`, with the mutant in it; what is big is linked. ValueError if the mutant no longer fits the code."""
    for name in ("e4t_minimal", "tests", "notebooks"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("data_samples", "docs", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    if mutant:
        path = folder / "e4t_minimal" / mutant.file
        code = path.read_text()
        if code.count(mutant.right) != 1:
            raise ValueError(
                f"The mutant {mutant.name!r} wants {mutant.right!r} once in {mutant.file}; it is there {code.count(mutant.right)} times. Write it anew."
            )
        path.write_text(code.replace(mutant.right, mutant.wrong))
    return folder


def passes(folder: Path, *arguments: str) -> bool:
    """Whether pytest finds nothing in a copy. RuntimeError if it could not look: a mutant that nothing has looked at is not caught."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"pytest {' '.join(arguments)} ended with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode == 0


def test_passes(folder: Path, mutant: Mutant) -> bool:
    return passes(folder, f"tests/{mutant.test}")


def notebook_passes(folder: Path, mutant: Mutant) -> bool:
    path = next((folder / "notebooks").glob(f"{mutant.notebook}_*.ipynb"))
    return passes(
        folder,
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        "tests/sanitize.cfg",
        str(path.relative_to(folder)),
    )


def main() -> int:
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    table, survivors = Table("mutant", "its test", "its notebook"), []
    for mutant in track(MUTANTS, description="mutants"):
        with TemporaryDirectory() as folder:
            folder = broken(mutant, Path(folder))
            caught = [not test_passes(folder, mutant), not notebook_passes(folder, mutant)]
        table.add_row(
            mutant.name,
            *(
                f"{'caught by' if seen else 'NOT seen by'} {where}"
                for seen, where in zip(caught, (mutant.test, mutant.notebook))
            ),
        )
        survivors += [mutant.name] if not any(caught) else []
    Console().print(table)
    if survivors:
        print("Survived:", ", ".join(survivors))
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
