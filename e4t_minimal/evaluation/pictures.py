"""The pictures that a comparison keeps, beside its records."""

from pathlib import Path

from diffusers.utils import make_image_grid
from PIL import Image

SIZE = 64  # pixels, height and width of a kept picture


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Pictures side by side."""
    return make_image_grid(pictures, rows=1, cols=len(pictures), resize=SIZE)


def picture_path(path: Path, method: str, person: int) -> Path:
    """Where a run's last pictures are kept, beside its records in `path`."""
    return path.with_suffix("") / f"{method.replace(' ', '-')}-{person:02d}.jpg"


def read_strip(path: Path, method: str, person: int) -> list[Image.Image]:
    """The pictures of PROMPTS that `picture_path` holds; ValueError if there are none."""
    file = picture_path(path, method, person)
    if not file.exists():
        raise ValueError(
            f"No pictures of {method} and person {person}: {file} not found. "
            "`e4t bench` keeps those of the first people."
        )
    with Image.open(file) as whole:
        boxes = [(left, 0, left + SIZE, SIZE) for left in range(0, whole.width, SIZE)]
        return [whole.crop(box) for box in boxes]
