import base64
import struct
import zlib

import numpy as np
import pytest

from steelyard.errors import ShapeError
from steelyard.report.picture import looks_like_pictures, picture, pixel_range, png


def decode(data: bytes) -> np.ndarray:
    """A PNG reader for what the writer claims: 8 bits, unfiltered rows, checksums right."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    channels = {0: 1, 2: 3, 6: 4}[colour]
    assert (depth, rest) == (8, [0, 0, 0])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


def pixels_of(shown) -> np.ndarray:
    return decode(base64.b64decode(shown.uri.removeprefix("data:image/png;base64,")))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_round_trip(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    np.testing.assert_array_equal(decode(png(pixels)), pixels)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64,), (8, 8, 1)),
        ((784,), (28, 28, 1)),
        ((8, 8), (8, 8, 1)),
        ((20, 30, 3), (20, 30, 3)),
        ((3, 20, 30), (20, 30, 3)),
        ((1, 28, 28), (28, 28, 1)),
    ],
)
def test_usual_shapes_are_pictures(shape, expected):
    values = np.random.default_rng(0).random((4, *shape))
    assert looks_like_pictures(values)
    drawn = pixels_of(picture(values[0], (0.0, 1.0)))
    assert drawn.shape == expected
    upright = values[0].transpose(1, 2, 0) if shape[0] in (1, 3) else values[0].reshape(expected)
    np.testing.assert_array_equal(drawn, (upright * 255 + 0.5).astype(np.uint8))


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).standard_normal((10, 64)),
        np.random.default_rng(0).random((10, 63)),
        np.random.default_rng(0).random((10, 36)),
        np.zeros((10, 64)),
        np.random.default_rng(0).random((10, 2, 3)),
    ],
    ids=["standardised", "no square", "too small", "constant", "tiny matrix"],
)
def test_other_vectors_are_not(values):
    assert not looks_like_pictures(values)


def test_black_and_white_point_is_the_narrowest_usual_range():
    assert pixel_range(np.array([0.0, 0.3])) == (0.0, 1.0)
    assert pixel_range(np.array([-0.5, 0.3])) == (-1.0, 1.0)
    assert pixel_range(np.array([0.0, 15.0])) == (0.0, 16.0)
    assert pixel_range(np.array([3.0, 200.0])) == (0.0, 255.0)
    assert pixel_range(np.array([-7.0, 9.0])) == (-7.0, 9.0)


def test_out_of_range_and_nan_are_clipped():
    drawn = pixels_of(picture(np.array([[-9.0, 0.0, 0.5, 9.0], [np.nan, 0, 0, 1]] * 2), (0.0, 1.0)))
    assert drawn[:2, :, 0].tolist() == [[0, 0, 128, 255], [0, 0, 0, 255]]


def test_large_pictures_are_averaged_down():
    large = np.kron(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones((400, 400)))
    drawn = pixels_of(picture(large, (0.0, 1.0)))
    assert drawn.shape == (160, 160, 1)
    assert drawn[0, 0, 0] == 0 and drawn[0, -1, 0] == 255


def test_what_is_no_picture_is_refused_with_a_way_out():
    with pytest.raises(ShapeError, match="show='row'"):
        picture(np.zeros(7), (0.0, 1.0))
