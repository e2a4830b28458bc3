import numpy as np
import pytest
from PIL import Image

from e4t_minimal.helpers.pictures import transparency
from e4t_minimal.scaling.photos import LARGE, open_photo


def halves(width=90, height=90):
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (width, height), "red")
    picture.paste("blue", (width // 2, 0, width, height))
    return picture


RED = (255, 0, 0)
BLUE = (0, 0, 255)


def close(pixel, color):
    return all(abs(a - b) < 60 for a, b in zip(pixel[:3], color, strict=True))


def test_a_photo_stands_upright_as_the_camera_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    halves().save(tmp_path / "x.jpg", exif=exif, quality=95)
    picture, notes = open_photo(tmp_path / "x.jpg")
    assert close(picture.getpixel((45, 5)), RED)
    assert close(picture.getpixel((45, 85)), BLUE)
    assert any("upright" in note for note in notes)


@pytest.mark.parametrize(
    "suffix, mode",
    [
        ("jpg", "RGB"),
        ("jpg", "CMYK"),
        ("jpg", "L"),
        ("png", "L"),
        ("png", "P"),
        ("png", "LA"),
        ("png", "1"),
        ("png", "RGBA"),
        ("webp", "RGB"),
        ("tif", "CMYK"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, suffix, mode):
    halves().convert(mode).save(tmp_path / f"x.{suffix}")
    picture, notes = open_photo(tmp_path / f"x.{suffix}")
    assert picture.size == (90, 90)
    assert notes == []
    assert transparency(picture) is None
    if mode in ("RGB", "CMYK", "P", "RGBA"):
        assert close(picture.getpixel((10, 45)), RED)
        assert close(picture.getpixel((80, 45)), BLUE)


def test_a_palette_with_a_transparent_colour_keeps_it(tmp_path):
    image = Image.new("P", (64, 64), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (16, 16, 48, 48))
    image.save(tmp_path / "x.png", transparency=0)
    picture, _ = open_photo(tmp_path / "x.png")
    assert picture.mode == "RGBA"
    assert picture.getpixel((0, 0))[3] == 0
    assert picture.getpixel((32, 32)) == (0, 0, 255, 255)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_of_grey(tmp_path, name):
    Image.fromarray(np.full((40, 40), 128 * 256, dtype=np.uint16)).save(tmp_path / name)
    picture, _ = open_photo(tmp_path / name)
    assert picture.getpixel((0, 0)) == (128, 128, 128)


def test_the_middle_is_kept_and_the_user_is_told(tmp_path):
    wide = Image.new("RGB", (120, 40), "white")
    wide.paste("red", (40, 0, 80, 40))
    wide.save(tmp_path / "x.png")
    picture, notes = open_photo(tmp_path / "x.png")
    assert picture.size == (40, 40)
    assert picture.getcolors() == [(1600, RED)]
    (note,) = notes
    assert "120 x 40" in note
    assert "--box" in note


def test_a_box_is_kept_instead(tmp_path):
    halves(200, 100).save(tmp_path / "x.png")
    picture, notes = open_photo(tmp_path / "x.png", (0, 10, 50, 60))
    assert picture.size == (50, 50)
    assert picture.getcolors() == [(2500, RED)]
    assert "0,10,50,60" in notes[0]
    # the square around it, pushed inside
    picture, _ = open_photo(tmp_path / "x.png", (190, 20, 200, 90))
    assert picture.size == (70, 70)
    with pytest.raises(ValueError, match="does not lie in the picture"):
        open_photo(tmp_path / "x.png", (0, 0, 300, 50))


def test_what_is_not_transparent_is_kept(tmp_path):
    picture = Image.new("RGBA", (200, 100))
    picture.paste("red", (140, 20, 190, 90))
    picture.save(tmp_path / "x.png")
    kept, notes = open_photo(tmp_path / "x.png")
    assert kept.size == (70, 70)
    assert transparency(kept).getbbox() == (10, 0, 60, 70)
    assert notes == ["cut to a square around what is not transparent"]


def test_tiny_is_refused_and_huge_is_made_smaller(tmp_path):
    halves(20, 20).save(tmp_path / "tiny.png")
    with pytest.raises(ValueError, match="20 x 20 pixels: too small"):
        open_photo(tmp_path / "tiny.png")
    halves(9000, 5000).save(tmp_path / "huge.jpg")
    picture, notes = open_photo(tmp_path / "huge.jpg")
    assert picture.size == (LARGE, LARGE)
    assert len(notes) == 2


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    halves(100, 100).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="cannot be read"):
        open_photo(tmp_path / "x.png")


@pytest.fixture
def lying(tmp_path):
    """A photo that is 100 wide and 200 high once it stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    halves(200, 100).save(tmp_path / "x.jpg", exif=exif, quality=95)
    return tmp_path / "x.jpg"


@pytest.fixture
def mask(tmp_path):
    mask = Image.new("1", (100, 200))
    mask.paste(1, (20, 20, 80, 80))
    mask.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_a_mask_is_turned_and_cut_with_its_photo(lying, mask):
    picture, _ = open_photo(lying, mask=mask)
    assert picture.size == (60, 60)
    assert picture.mode == "RGBA"
    assert transparency(picture) is None
    assert close(picture.getpixel((30, 30)), RED)


def test_a_mask_and_a_box_keep_what_lies_around_the_subject(lying, mask):
    picture, _ = open_photo(lying, (0, 0, 100, 100), mask=mask)
    assert transparency(picture).getbbox() == (20, 20, 80, 80)
    assert close(picture.convert("RGB").getpixel((5, 5)), RED)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_a_mask_that_lies_on_its_side_is_turned_too(lying, tmp_path, kind):
    mask, exif = Image.new("L", (200, 100)), Image.Exif()
    mask.paste(255, (0, 0, 50, 100))  # its left is the top, once it stands upright
    exif[0x0112] = 6
    # PIL 13.0 itself garbles a TIFF that lies on its side and is not compressed
    packed = {"compression": "tiff_lzw"} if kind == "tif" else {}
    mask.save(tmp_path / f"mask.{kind}", exif=exif, **packed)
    picture, _ = open_photo(lying, (0, 0, 100, 100), mask=tmp_path / f"mask.{kind}")
    assert transparency(picture).point(lambda grey: 255 * (grey > 127)).getbbox() == (0, 0, 100, 50)


def test_what_a_mask_uncovers_is_white_where_the_photo_is_transparent(tmp_path):
    photo = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    photo.paste((200, 0, 0, 255), (10, 10, 30, 30))
    photo.save(tmp_path / "cut.png")
    Image.new("L", (40, 40), 255).save(tmp_path / "all.png")
    picture, _ = open_photo(tmp_path / "cut.png", mask=tmp_path / "all.png")
    assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert picture.convert("RGB").getpixel((20, 20)) == (200, 0, 0)


def test_a_bad_mask_is_refused(lying, tmp_path):
    Image.new("L", (100, 200)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"black.png: The mask shows nothing: its brightest"):
        open_photo(lying, mask=tmp_path / "black.png")
    Image.new("L", (50, 50), 255).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small.png is 50 x 50, but .*x.jpg is 100 x 200"):
        open_photo(lying, mask=tmp_path / "small.png")
    with pytest.raises(ValueError, match="no picture at .*nowhere.png"):
        open_photo(lying, mask=tmp_path / "nowhere.png")


def test_a_subject_longer_than_the_picture_is_wide_loses_its_ends_and_that_is_said(tmp_path):
    picture = Image.new("RGBA", (100, 300))
    picture.paste("red", (10, 10, 90, 290))
    picture.save(tmp_path / "tall.png")
    square, notes = open_photo(tmp_path / "tall.png")
    assert square.size == (100, 100)
    assert "whose ends are cut off" in notes[0]
