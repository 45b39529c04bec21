"""Arrays as small pictures: which arrays are pictures, and how they become PNG data URIs."""

import base64
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Num, UInt8

from steelyard.errors import ShapeError

_SMALLEST, _LARGEST = 4, 4096
_SHOWN = 160  # longest side in the page; larger pictures are averaged down to it
_DEPTHS = (1, 3, 4)
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # PNG: greyscale, RGB, RGBA


@dataclass(frozen=True)
class Picture:
    """A picture ready for an ``img`` element.

    Attributes:
        uri: ``data:image/png;base64,…``
        width: In pixels of the data.
        height: In pixels of the data.
    """

    uri: str
    width: int
    height: int


def looks_like_pictures(values: Num[np.ndarray, "example ..."]) -> bool:
    """Whether arrays are probably pictures.

    Two-dimensional arrays and those with 1, 3 or 4 channels first or last are. Flat vectors are if their length
    is a square of at least 64 and all values lie in one of the usual ranges of pixels: [0, 1], [-1, 1], [0, 16]
    (scikit-learn's digits) or [0, 255]; standardised features do not, and so are shown as a table row.
    """
    if values.size == 0 or _layout(values.shape[1:]) is None:
        return False
    if values.ndim > 2:
        return True
    low, high = float(values.min()), float(values.max())
    return values.shape[1] >= 64 and low < high and (low >= 0 and high <= 255 or low >= -1 and high <= 1)


def pixel_range(values: Num[np.ndarray, "example ..."]) -> tuple[float, float]:
    """Black and white point: the narrowest usual range that holds all values, else the values' own range."""
    low, high = float(values.min()), float(values.max())
    for black, white in ((0.0, 1.0), (-1.0, 1.0), (0.0, 16.0), (0.0, 255.0)):
        if black <= low and high <= white:
            return black, white
    return low, high if high > low else low + 1.0


def picture(values: Num[np.ndarray, "..."], black_white: tuple[float, float]) -> Picture:
    """One array as a PNG data URI.

    Args:
        values: Height by width, with 1, 3 or 4 channels first or last, or a flat square.
        black_white: Values drawn as black and as white; beyond them is clipped.

    Raises:
        ShapeError: If the array has none of these shapes.
    """
    shape = _layout(values.shape)
    if shape is None:
        raise ShapeError(
            f"an example of shape {tuple(values.shape)} cannot be drawn as a picture.",
            fix="use show='row', or give arrays of shape [h, w], [h, w, 3], [3, h, w] or a flat square.",
        )
    black, white = black_white
    unit = (np.asarray(values, dtype=np.float64) - black) / (white - black)
    if values.ndim == 3 and values.shape[2] not in _DEPTHS:
        unit = np.moveaxis(unit, 0, 2)
    unit = _shrunk(np.clip(np.nan_to_num(unit.reshape(shape)), 0.0, 1.0))
    pixels = np.ascontiguousarray((unit * 255.0 + 0.5).astype(np.uint8))
    uri = "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")
    return Picture(uri, width=pixels.shape[1], height=pixels.shape[0])


def png(pixels: UInt8[np.ndarray, "height width channel"]) -> bytes:
    """Pixels as a PNG file.

    Source: W3C, Portable Network Graphics (third edition): signature, IHDR, one IDAT of unfiltered rows, IEND.
    """
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), dtype=np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _shrunk(unit: np.ndarray) -> np.ndarray:
    height, width, channels = unit.shape
    step = math.ceil(max(height, width) / _SHOWN)
    if step == 1 or min(height, width) < step:
        return unit
    unit = unit[: height // step * step, : width // step * step]
    return unit.reshape(height // step, step, width // step, step, channels).mean(axis=(1, 3))


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    # (height, width, channels), or None where this is no picture.
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        found = (side, side, 1) if side * side == shape[0] else None
    elif len(shape) == 2:
        found = (shape[0], shape[1], 1)
    elif len(shape) == 3 and shape[2] in _DEPTHS:
        found = (shape[0], shape[1], shape[2])
    elif len(shape) == 3 and shape[0] in _DEPTHS:
        found = (shape[1], shape[2], shape[0])
    else:
        found = None
    if found is None or not all(_SMALLEST <= side <= _LARGEST for side in found[:2]):
        return None
    return found
