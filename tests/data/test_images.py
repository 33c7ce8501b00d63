import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dnexport.data.images import input_from_pixels, pixels_from_file, pixels_from_image, thumbnail_from_pixels
from dnexport.errors import DataError
from dnexport.spec.preprocess import IMAGENET, Preprocess

SMALL = Preprocess(input_size=(8, 8), resize=None)


def picture(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    generator = np.random.default_rng(0)
    base = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    return base.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "CMYK", "P", "1", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    pixels = pixels_from_image(picture(mode), IMAGENET)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = pixels_from_image(picture("I;16"), SMALL).astype(int)
    assert np.abs(grey - pixels_from_image(picture("L"), SMALL).astype(int)).max() <= 1


@pytest.mark.parametrize("full_scale", [1.0, 255.0, 65535.0])
def test_floats_are_scaled_from_the_range_that_holds_them(full_scale: float) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    values = grey.astype(np.float32) / np.float32(255) * np.float32(full_scale)
    pixels = pixels_from_image(Image.fromarray(values), SMALL)
    np.testing.assert_array_equal(pixels[:, :, 0], grey)


@pytest.mark.parametrize("value", [-0.5, 7e4, np.nan, np.inf])
def test_floats_of_no_known_range_are_refused(value: float) -> None:
    values = np.zeros((8, 8), np.float32)
    values[3, 3] = value
    with pytest.raises(DataError, match=r"an image of mode F has values from .* to .*; scale it to 0 to 1"):
        pixels_from_image(Image.fromarray(values), SMALL)


def test_whole_numbers_to_one_stay_dark() -> None:
    values = np.ones((8, 8), np.int32)
    assert pixels_from_image(Image.fromarray(values), SMALL).max() == 1


def opened(uri: str) -> Image.Image:
    heading, _, content = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert heading == f"data:image/{image.format.lower()};base64"
    return image


def test_a_thumbnail_is_small_upright_in_colour_and_repeats() -> None:
    wide = Preprocess(input_size=(100, 200), resize=None)
    ramp = Image.linear_gradient("L").resize((200, 100))
    rgb = Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_180), Image.new("L", ramp.size)))
    made = {}
    for channels in ("rgb", "bgr"):
        preprocess = wide.model_copy(update={"channels": channels})
        made[channels] = thumbnail_from_pixels(pixels_from_image(rgb, preprocess), preprocess)
    assert made["rgb"] == made["bgr"]
    assert len(made["rgb"]) < 8_000
    image = opened(made["rgb"])
    assert image.size == (96, 48)
    assert image.getpixel((10, 45))[0] > 200 > 50 > image.getpixel((10, 45))[1]


def test_a_thumbnail_of_few_greys_is_exact_and_none_is_enlarged() -> None:
    grey = Preprocess(input_size=(32, 32), resize=None, channels="grey", mean=(0.5,), std=(0.5,))
    pixels = np.kron(np.eye(4, dtype=np.uint8) * 200, np.ones((8, 8), np.uint8))[:, :, None]
    image = opened(thumbnail_from_pixels(pixels, grey))
    assert (image.format, image.mode) == ("PNG", "L")
    np.testing.assert_array_equal(np.asarray(image), pixels[:, :, 0])


@given(st.integers(30, 400), st.integers(30, 400))
def test_geometry_is_torchvisions(width: int, height: int) -> None:
    """Resize(256) truncates the longer side; CenterCrop rounds half to even."""
    image = picture("RGB", (width, height))
    short, long = sorted((width, height))
    new_long = int(256 * long / short)
    size = (256, new_long) if width <= height else (new_long, 256)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    top, left = round((size[1] - 224) / 2.0), round((size[0] - 224) / 2.0)
    expected = np.asarray(resized)[top : top + 224, left : left + 224]
    np.testing.assert_array_equal(pixels_from_image(image, IMAGENET), expected)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    upright = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn right by 90 degrees to see it
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pixels_from_file(tmp_path / "turned.png", SMALL), np.asarray(upright))


def test_bgr_reverses_the_planes() -> None:
    rgb = pixels_from_image(picture("RGB"), SMALL)
    bgr = pixels_from_image(picture("RGB"), SMALL.model_copy(update={"channels": "bgr"}))
    np.testing.assert_array_equal(bgr, rgb[:, :, ::-1])


def test_arithmetic() -> None:
    pixels = np.full((1, 8, 8, 3), 255, np.uint8)
    x = input_from_pixels(pixels, SMALL)
    assert x.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(x[0, :, 0, 0], (1 - np.array(SMALL.mean)) / np.array(SMALL.std), rtol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 half a jpeg"])
def test_an_undecodable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg cannot be decoded; remove it"):
        pixels_from_file(path, SMALL)


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    picture("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be decoded"):
        pixels_from_file(path, SMALL)


def test_a_picture_as_long_as_a_street_is_refused(tmp_path: Path) -> None:
    Image.new("L", (100_000, 1)).save(tmp_path / "street.png")
    with pytest.raises(
        DataError, match=r"an image of 100000×1 pixels would be resized to 25600000×256 before its crop"
    ):
        pixels_from_file(tmp_path / "street.png", IMAGENET)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="is no file"):
        pixels_from_file(tmp_path / "pipe.png", SMALL)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        pixels_from_file(tmp_path / "none.jpg", SMALL)
