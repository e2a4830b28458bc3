"""Many pictures of one domain: a folder, or a data set on the hub, read in one order by however many processes."""

import io
from pathlib import Path

import torch
from PIL import Image, ImageOps

from ..base import generator
from ..scaling.photos import eight_bits

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
PROMPTS = (
    "a photo of {}",
    "a good photo of {}",
    "a close-up photo of {}",
    "a bright photo of {}",
    "a rendition of {}",
    "a picture of {}",
)  # say nothing about who it is


class Pictures:
    """The pictures of every batch that belong to one process of `world`: number `rank`, `rank + world`, ... of each.

    source: a folder of pictures (with folders in it), or a hub id. streaming: read while training, never the whole; shuffled in a buffer.
    Which picture comes when depends on the seed alone, so a stopped run can go on. `seek` goes to a position, `position` is where it stands."""

    def __init__(
        self,
        source: str | Path,
        split: str = "train",
        column: str = "image",
        streaming: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        buffer: int = 1000,
    ):
        import datasets
        from datasets.distributed import split_dataset_by_node

        self.column, self.seed, self.rank, self.world, self.position = (
            column,
            seed,
            rank,
            world,
            [0, 0],
        )
        if Path(source).is_dir():
            files = sorted(
                str(path) for path in Path(source).rglob("*") if path.suffix.lower() in SUFFIXES
            )
            if not files:
                raise ValueError(
                    f"The folder {source} holds no pictures ({', '.join(sorted(SUFFIXES))})."
                )
            rows, self.column = (
                datasets.Dataset.from_dict({"image": files}).cast_column(
                    "image", datasets.Image(decode=False)
                ),
                "image",
            )
            rows = rows.to_iterable_dataset() if streaming else rows
        else:
            try:
                rows = datasets.load_dataset(str(source), split=split, streaming=streaming)
                rows = rows.cast_column(
                    column, datasets.Image(decode=False)
                )  # pictures of other processes need not be decoded
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(
                    f"No pictures at {source!r} ({str(error).splitlines()[0][:160]}). Give a folder, or the id of a data set on the hub with a "
                    f"column {column!r} of images (--column, --split)."
                ) from None
        self.rows = (
            split_dataset_by_node(rows.shuffle(seed=seed, buffer_size=buffer), rank, world)
            if streaming
            else rows
        )
        self.streaming, self.stream, self.order = (
            streaming,
            None,
            (-1, None),
        )  # order: the epoch, and its shuffled numbers of rows

    def seek(self, position: list[int]):
        """Go on after [epoch, rows taken from it]; without streaming, [0, steps done]."""
        self.position, self.stream = list(position), None

    def take(self, batch: int) -> list[Image.Image]:
        """This process's `batch / world` pictures of the next global batch."""
        if batch % self.world:
            raise ValueError(
                f"A batch of {batch} cannot be shared equally by {self.world} processes; choose a multiple of {self.world}."
            )
        if self.streaming:
            return [self._next() for _ in range(batch // self.world)]
        start = self.position[1] * batch
        self.position[1] += 1
        return [self._row(start + j) for j in range(self.rank, batch, self.world)]

    def _row(self, number: int) -> Image.Image:
        """Picture `number` of an endless row of shuffled epochs; one that cannot be read gives its place to the next."""
        for other in range(len(self.rows)):
            epoch, i = divmod(number + other, len(self.rows))
            if self.order[0] != epoch:
                self.order = (
                    epoch,
                    torch.randperm(len(self.rows), generator=generator(self.seed, epoch)),
                )
            if (picture := self._open(self.rows[int(self.order[1][i])])) is not None:
                return picture
        raise ValueError("Not one of the pictures can be read.")

    def _next(self) -> Image.Image:
        ends = 0
        while ends < 2:  # from one end to the next there must have been a picture
            if self.stream is None:
                self.rows.set_epoch(self.position[0])
                self.stream = iter(self.rows.skip(self.position[1]))
            row = next(self.stream, None)
            if row is None:
                self.position, self.stream, ends = [self.position[0] + 1, 0], None, ends + 1
                continue
            self.position = [self.position[0], self.position[1] + 1]
            if (picture := self._open(row)) is not None:
                return picture
        raise ValueError("Not one of the pictures can be read.")

    def _open(self, row: dict) -> Image.Image | None:
        value = row[self.column]
        if value is None:
            return None
        try:
            with Image.open(
                io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"]
            ) as file:
                return eight_bits(ImageOps.exif_transpose(file))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None


def prompts_of(
    step: int, batch: int, token: str, seed: int = 0, templates: tuple[str, ...] = PROMPTS
) -> list[str]:
    """One prompt for each picture of a global batch."""
    chosen = torch.randint(len(templates), (batch,), generator=generator(seed, step))
    return [templates[i].format(token) for i in chosen]
