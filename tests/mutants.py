"""The module broken on purpose, one line at a time: does a test, or a checked cell, notice?

python tests/mutants.py    # every mutant, against its test and its notebook: `make mutants`
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
    """In e4t_minimal/`file`, `right` (there exactly once) becomes `wrong`.

    `test` and `notebook` should each fail then.
    """

    name: str
    file: str
    right: str
    wrong: str
    test: str
    notebook: str
    quick: bool = False  # it is tried in every `make test`, too

    @property
    def path(self) -> str:
        return f"e4t_minimal/{self.file}"

    def broken_code(self) -> str:
        """The file's text with the mutant; ValueError if it no longer fits the code."""
        code = (ROOT / self.path).read_text()
        count = code.count(self.right)
        if count != 1:
            raise ValueError(
                f"The mutant {self.name!r} wants {self.right!r} once in {self.file}; "
                f"it is there {count} times. Write it anew."
            )
        return code.replace(self.right, self.wrong)


MUTANTS = [
    Mutant(
        "sign of the guidance",
        "sample.py",
        right="unconditional + guidance *",
        wrong="unconditional - guidance *",
        test="test_sample.py::test_without_s_it_is_the_stock_pipeline",
        notebook="02",
        quick=True,
    ),
    Mutant(
        "Delta added instead of multiplied",
        "offsets.py",
        right="(weight + weight * (left @ right.T))",
        wrong="(weight + (left @ right.T))",
        test="test_offsets.py::test_folded_is_live_is_merged",
        notebook="05",
    ),
    Mutant(
        "class anchor dropped",
        "model.py",
        right="self.placeholder.class_embedding + offset)",
        wrong="offset)",
        test="test_encoder.py::test_every_encoder_starts_as_the_class_word_and_learns",
        notebook="04",
    ),
    Mutant(
        "S* injected after the text encoder",
        "placeholder.py",
        right="text_encoder.get_input_embeddings().register_forward_hook(put_in)",
        wrong="text_encoder.final_layer_norm.register_forward_hook(put_in)",
        test="test_placeholder.py::test_only_the_placeholder_changes_and_all_of_them",
        notebook="03",
        quick=True,
    ),
    Mutant(
        "L2 on v* whole",
        "regularizers.py",
        right="embedding_l2(prediction.offset)",
        wrong="embedding_l2(prediction.embedding)",
        test="test_model.py::test_loss_is_diffusion_plus_weighted_l2_of_the_offset",
        notebook="06",
    ),
    Mutant(
        "noise schedule reversed",
        "base.py",
        right="self.scheduler.add_noise(latents, noise, t)",
        wrong="self.scheduler.add_noise(latents, noise, 999 - t)",
        test="test_train.py::test_noise_and_target_agree",
        notebook="07",
    ),
    Mutant(
        "offsets not applied to K",
        "offsets.py",
        right="to_[qkv]$",
        wrong="to_[qv]$",
        test="test_offsets.py::test_zero_start_leaves_the_model_bit_equal",
        notebook="05",
    ),
    Mutant(
        "features from the wrong timestep",
        "encoder.py",
        right="base.predict(z_t, t, hidden",
        wrong="base.predict(z_t, 999 - t, hidden",
        test="test_encoder.py::test_half_a_pass_gives_the_features_of_a_whole_one",
        notebook="04",
    ),
    Mutant(
        "the mask forgotten",
        "model.py",
        right="error = error * mask / mask.mean(dim=(1, 2, 3), keepdim=True)",
        wrong="error = error + 0 * mask",
        test="test_model.py::test_mask_takes_the_background_out_of_the_loss",
        notebook="08",
    ),
    Mutant(
        "S* predicted only once",
        "sample.py",
        right="image_features is not None:\n                embedding, offset",
        wrong="image_features is not None and index == 0:\n                embedding, offset",
        test="test_sample.py::test_s_is_predicted_again_at_every_step",
        notebook="11",
    ),
    Mutant(
        "what lies outside counted over the whole batch",
        "regularizers.py",
        right="(change.mean(dim=(1, 2, 3)) / share).mean()",
        wrong="change.mean() / share.mean()",
        test=(
            "test_regularizers.py::test_every_picture_counts_alike_however_much_of_it_lies_outside"
        ),
        notebook="",
        quick=True,
    ),
    Mutant(
        "timesteps that do not exist",
        "train.py",
        right="t = t.clamp(max=end - 1)",
        wrong="t = t.clamp(max=end)",
        test="test_train.py::test_timesteps_exist_however_they_are_rounded",
        notebook="",
    ),
    Mutant(
        "half of the offsets left after an error",
        "helpers/hooking.py",
        right="        _hang(modules, before)\n        raise",
        wrong="        raise",
        test="test_hooks.py::test_all_offsets_hang_or_none",
        notebook="",
    ),
    Mutant(
        "a copy's class shared with the original",
        "helpers/hooking.py",
        right="module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))",
        wrong="assert shared",
        test="test_hooks.py::test_a_deep_copy_and_its_original_part",
        notebook="",
    ),
    Mutant(
        "two threads at a time",
        "helpers/hooking.py",
        right="ONE_AT_A_TIME = RLock()",
        wrong="ONE_AT_A_TIME = __import__('contextlib').nullcontext()",
        test="test_hooks.py::test_two_drawings_at_once_in_two_threads_are_right",
        notebook="",
    ),
    Mutant(
        "the offsets missing on the way",
        "sample.py",
        right="            if e4t:\n                e4t.check_attached()\n",
        wrong="",
        test="test_hooks.py::test_also_in_the_middle_of_a_drawing_or_a_training",
        notebook="",
    ),
    Mutant(
        "places of a picture that is not square scrambled",
        "inspection/heat.py",
        right="side_of_places(places, latents)",
        wrong="(int(places**0.5),) * 2",
        test="test_trace.py::test_heat_maps_and_planes_have_the_shape_of_the_picture",
        notebook="",
    ),
]


def broken(mutant: Mutant | None, folder: Path) -> Path:
    """A copy of the project in `folder`, with the mutant in it; what is big is linked.

    ValueError if the mutant no longer fits the code.
    """
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("e4t_minimal", "tests", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("data_samples", "docs", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    if mutant:
        (folder / mutant.path).write_text(mutant.broken_code())
    return folder


def passes(folder: Path, *arguments: str) -> bool:
    """Whether pytest finds nothing in a copy.

    RuntimeError if it could not look: a mutant that nothing has looked at is not caught.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"pytest {' '.join(arguments)} ended with status {done.returncode}:\n"
            f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode == 0


def passes_its_test(folder: Path, mutant: Mutant) -> bool:
    return passes(folder, f"tests/{mutant.test}")


def passes_its_notebook(folder: Path, mutant: Mutant) -> bool:
    path = next((folder / "notebooks").glob(f"{mutant.notebook}_*.ipynb"))
    options = ("--nbval-lax", "--nbval-current-env", "--nbval-sanitize-with", "tests/sanitize.cfg")
    return passes(folder, *options, str(path.relative_to(folder)))


def caught_by(mutant: Mutant) -> dict[str, bool]:
    """{its test and its notebook: whether they fail on the broken module}."""
    with TemporaryDirectory() as name:
        folder = broken(mutant, Path(name))
        caught = {mutant.test: not passes_its_test(folder, mutant)}
        if mutant.notebook:
            caught[mutant.notebook] = not passes_its_notebook(folder, mutant)
    return caught


def main() -> int:
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    table = Table("mutant", "its test", "its notebook")
    survivors = []
    for mutant in track(MUTANTS, description="mutants"):
        caught = caught_by(mutant)
        cells = [f"{'caught by' if seen else 'NOT seen by'} {who}" for who, seen in caught.items()]
        table.add_row(mutant.name, *cells)
        if not any(caught.values()):
            survivors.append(mutant.name)
    Console().print(table)
    if survivors:
        print("Survived:", ", ".join(survivors))
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
