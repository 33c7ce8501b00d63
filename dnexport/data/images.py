"""From a picture to the network's input, in two steps that every part of dnexport shares.

Geometry (decode, upright by EXIF, convert, resize, crop) gives uint8 NHWC; arithmetic gives float32 NCHW. Golden
samples are stored between the two: exact, and a quarter of the size.
"""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from dnexport.errors import DataError
from dnexport.spec.preprocess import InputType, Preprocess

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

LARGEST_RESIZED_SIDE = 65_536
_FULL_SCALES = (1.0, 255.0, 65535.0)
_THUMBNAIL_SIDE = 96
_THUMBNAIL_QUALITY = 85

Pixels = UInt8[np.ndarray, "height width channels"]
PixelBatch = UInt8[np.ndarray, "batch height width channels"]
InputBatch = Float32[np.ndarray, "batch channels height width"]
# One of several batches, which need not be of one size.
InputPart = Float32[np.ndarray, "_ channels height width"]
PixelPart = UInt8[np.ndarray, "_ height width channels"]
# What a session is fed.
Fed = InputPart | PixelPart
Feed = Callable[[InputType], Fed]

Cut = Callable[[Image.Image], Image.Image]


def pixels_from_file(path: Path, preprocess: Preprocess, cut: Cut | None = None) -> Pixels:
    """Decode a picture and bring it, or what ``cut`` leaves of it, to the network's input size.

    Raises:
        DataError: the file is missing or cannot be decoded.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"image {path} is no file", "give a JPEG or PNG")
    try:
        with Image.open(path) as image:
            return pixels_from_image(image, preprocess, cut)
    except FileNotFoundError as exc:
        raise DataError(f"image {path} does not exist", "check the path") from exc
    except DataError:
        raise
    except Exception as exc:  # Pillow's decoders raise what they like on damaged files
        raise DataError(f"image {path} cannot be decoded", "remove it or replace it by a whole JPEG or PNG") from exc


def pixels_from_image(image: Image.Image, preprocess: Preprocess, cut: Cut | None = None) -> Pixels:
    """Bring a Pillow image of any mode to ``input_size``, upright, in the asked channels."""
    upright = ImageOps.exif_transpose(image) or image
    upright = cut(upright) if cut else upright
    planes = _eight_bit(upright).convert("L" if preprocess.channels == "grey" else "RGB")
    fitted = _fit(planes, preprocess)
    pixels = np.asarray(fitted, dtype=np.uint8).reshape(*preprocess.input_size, preprocess.planes)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if preprocess.channels == "bgr" else pixels


def feed_from_pixels(pixels: PixelPart, preprocess: Preprocess) -> Feed:
    """The same pictures as an engine of either input type takes them."""
    return lambda input_type: pixels if input_type == "uint8" else input_from_pixels(pixels, preprocess)


def input_from_pixels(pixels: PixelBatch, preprocess: Preprocess) -> InputBatch:
    """``(x/255 - mean) / std`` per channel, channels first."""
    mean = np.asarray(preprocess.mean, np.float32)
    std = np.asarray(preprocess.std, np.float32)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    # Copied, also where one channel is contiguous as it is: its strides would be those of channels last, for which
    # PyTorch exports a global pooling as a gather of computed indices.
    return np.array(scaled.transpose(0, 3, 1, 2), order="C")


def thumbnail_from_pixels(pixels: Pixels, preprocess: Preprocess) -> str:
    """The picture as a page shows it: a data URI of a JPEG or, where that is smaller, a PNG; equal for equal pixels."""
    planes = {"rgb": pixels, "bgr": pixels[:, :, ::-1], "grey": pixels[:, :, 0]}[preprocess.channels]
    image = Image.fromarray(np.ascontiguousarray(planes))
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
    encoded = {"jpeg": _encoded(image, "jpeg", quality=_THUMBNAIL_QUALITY), "png": _encoded(image, "png")}
    kind = min(encoded, key=lambda each: len(encoded[each]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and floating-point greyscale scaled to 8 bits; Pillow's own conversion would clip them.

    Values to 1, 255 or 65535 are full scale, whichever holds the largest; whole numbers are never read as 0 to 1.

    Raises:
        DataError: values that are negative, not finite or larger.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float32)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not (low >= 0 and high <= _FULL_SCALES[-1]):
        raise DataError(f"an image of mode {image.mode} has values from {low:g} to {high:g}", "scale it to 0 to 1")
    scales = _FULL_SCALES if image.mode == "F" else _FULL_SCALES[1:]
    full_scale = next(each for each in scales if high <= each)
    return Image.fromarray((values * (255.0 / full_scale)).round().astype(np.uint8))


def _fit(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    height, width = preprocess.input_size
    resample = _FILTERS[preprocess.interpolation]
    if preprocess.resize is None:
        return image if image.size == (width, height) else image.resize((width, height), resample)
    short = min(image.size)
    # torchvision's rule: the longer side is truncated, not rounded.
    size = tuple(int(preprocess.resize * side / short) for side in image.size)
    if max(size) > LARGEST_RESIZED_SIDE:
        what = (
            f"an image of {image.width}×{image.height} pixels would be resized to {size[0]}×{size[1]} before its crop"
        )
        raise DataError(what, "cut it to a saner shape")
    resized = image.resize((size[0], size[1]), resample) if size != image.size else image
    left, top = round((size[0] - width) / 2.0), round((size[1] - height) / 2.0)
    return resized.crop((left, top, left + width, top + height))
