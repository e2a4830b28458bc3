"""Many pictures of one domain: a folder, or a data set on the hub, read in one order by however
many processes."""

import io
import warnings
from pathlib import Path

import torch
from PIL import Image

from ..helpers import checks
from ..helpers.checks import reason
from ..helpers.pictures import standardize
from ..helpers.runtime import generator
from .photos import reading

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif"}
NAMED = 5  # of what is left out, so many are named
BUFFER = 1000  # rows that a stream is shuffled in
# they say nothing about who it is
PROMPTS = (
    "a photo of {}",
    "a good photo of {}",
    "a close-up photo of {}",
    "a bright photo of {}",
    "a rendition of {}",
    "a picture of {}",
)


class Pictures:
    """The pictures of every batch that belong to one process of `world`.

    Process `rank` takes number rank, rank + world, ... of each batch. Which picture comes when
    depends on the seed alone, so a stopped run can go on: `position` is where it stands, `seek`
    goes there. A row whose picture cannot be read gives its place to the next, with a warning.
    `notes` says what of a folder was left out.

    source: a folder of pictures (with folders in it), or a hub id with its split and column.
    streaming: read while training, never the whole; shuffled in a buffer.
    ValueError if there are no pictures.
    """

    def __init__(
        self,
        source: str | Path,
        split: str = "train",
        column: str = "image",
        streaming: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        checks.seed(seed)
        checks.whole(1, 2**16, world=world)
        checks.whole(0, world - 1, rank=rank)
        self.streaming = streaming
        self.seed = seed
        self.notes = []
        self.rank = rank
        self.world = world
        if Path(source).is_dir():
            rows, self.description, self.notes = _read_folder(Path(source), streaming)
            self.column = "image"
        else:
            rows = _read_data_set(str(source), split, column, streaming)
            self.description = f"{source}, split {split}, column {column}"
            self.column = column
        self.rows = _share_of_stream(rows, seed, rank, world) if streaming else rows
        # without streaming [0, steps done], otherwise [epoch, rows taken of it]
        self.position = [0, 0]
        self._stream = None  # the rows to come, with streaming
        self._epoch = None  # (its number, its order of rows), without

    def seek(self, position: list[int]):
        """Go on from where another one stood."""
        self.position = list(position)
        self._stream = None

    def take(self, batch: int) -> list[Image.Image]:
        """This process's `batch / world` pictures of the next global batch.

        ValueError if it cannot be shared equally, or if no picture can be read.
        """
        if batch % self.world:
            raise ValueError(
                f"A batch of {batch} cannot be shared equally by {self.world} processes; "
                f"choose a multiple of {self.world}."
            )
        if self.streaming:
            return [self._next_of_stream() for _ in range(batch // self.world)]
        start = self.position[1] * batch
        self.position[1] += 1
        return [self._picture(start + i) for i in range(self.rank, batch, self.world)]

    def _picture(self, number: int) -> Image.Image:
        """Picture `number` of an endless sequence of shuffled epochs."""
        # two epochs from anywhere hold a whole one, and so each picture
        for candidate in range(number, number + 2 * len(self.rows)):
            epoch, place = divmod(candidate, len(self.rows))
            row = int(self._order_of(epoch)[place])
            picture = self._open(self.rows[row])
            if picture is not None:
                return picture
        raise ValueError("Not one of the pictures can be read.")

    def _order_of(self, epoch: int) -> torch.Tensor:
        if self._epoch is None or self._epoch[0] != epoch:
            order = torch.randperm(len(self.rows), generator=generator(self.seed, epoch))
            self._epoch = (epoch, order)
        return self._epoch[1]

    def _next_of_stream(self) -> Image.Image:
        ends = 0
        while ends < 2:  # from one end to the next there must have been a picture
            epoch, taken = self.position
            if self._stream is None:
                self.rows.set_epoch(epoch)
                self._stream = iter(self.rows.skip(taken))
            row = next(self._stream, None)
            if row is None:
                ends += 1
                self.seek([epoch + 1, 0])
                continue
            self.position = [epoch, taken + 1]
            picture = self._open(row)
            if picture is not None:
                return picture
        raise ValueError("Not one of the pictures can be read.")

    def _open(self, row: dict) -> Image.Image | None:
        """The row's picture, upright; None if it has none that can be read."""
        value = row[self.column]
        if value is None:
            return None
        source = io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"]
        try:
            with reading(source, value["path"] or "a row of the data set") as file:
                return standardize(file)[0]
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            return None


def _read_folder(folder: Path, streaming: bool):
    """(rows with a column "image", what is in it, notes)."""
    import datasets

    paths, left_out = _pictures_of(folder)
    if not paths:
        raise ValueError(
            f"The folder {folder} holds no pictures ({', '.join(sorted(SUFFIXES))})"
            f"{_named(left_out)}."
        )
    rows = datasets.Dataset.from_dict({"image": paths})
    rows = rows.cast_column("image", datasets.Image(decode=False))
    description = f"a folder of {len(paths)} pictures"
    notes = [f"{len(paths)} used{_named(left_out)}"] if left_out else []
    return (rows.to_iterable_dataset() if streaming else rows), description, notes


def _pictures_of(folder: Path) -> tuple[list[str], list[str]]:
    """(paths of pictures, names of other files); what is hidden is neither."""
    paths, left_out = [], []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or path.is_dir():
            continue
        if path.suffix.lower() in SUFFIXES and _opens(path):
            paths.append(str(path))
        else:
            left_out.append(str(inside))
    return paths, left_out


def _opens(path: Path) -> bool:
    """Whether it begins as a picture does; what comes then is read when it is needed."""
    try:
        with reading(path, path):
            return True
    except ValueError:
        return False


def _named(left_out: list[str]) -> str:
    """Such as ", 13 left out: notes.txt, broken.png, ..."; nothing if nothing was."""
    if not left_out:
        return ""
    names = [*left_out[:NAMED], *(["..."] if len(left_out) > NAMED else [])]
    return f", {len(left_out)} left out: {', '.join(names)}"


def _read_data_set(name: str, split: str, column: str, streaming: bool):
    import datasets

    try:
        _check_column(datasets.load_dataset_builder(name).info.features, column)
        rows = datasets.load_dataset(name, split=split, streaming=streaming)
        # not decoded here: the pictures of other processes need not be
        return rows.cast_column(column, datasets.Image(decode=False))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"No pictures at {name!r} ({reason(error)}). Give a folder, or the "
            f"id of a data set on the hub with a column {column!r} of images (--column, --split)."
        ) from None


def _check_column(features: dict | None, column: str):
    """ValueError if the data set says that it has no such column, before anything is fetched."""
    if features is not None:
        checks.choice("column", column, features)


def _share_of_stream(rows, seed: int, rank: int, world: int):
    from datasets.distributed import split_dataset_by_node

    return split_dataset_by_node(rows.shuffle(seed=seed, buffer_size=BUFFER), rank, world)


def prompts_of(
    step: int, batch: int, token: str, seed: int = 0, templates: tuple[str, ...] = PROMPTS
) -> list[str]:
    """One prompt for each picture of a global batch."""
    chosen = torch.randint(len(templates), (batch,), generator=generator(seed, step))
    return [templates[i].format(token) for i in chosen]
