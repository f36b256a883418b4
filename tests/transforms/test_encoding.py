"""Patches as bytes; Pillow and TensorFlow are the independent judges of the files."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from transforms.encoding import decode_patch, encode_patch


def noise(dtype, channels, height=13, width=9):
    rng = np.random.default_rng(channels)
    if dtype == "float32":
        return rng.normal(size=(height, width, channels)).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def gradient(channels, height=40, width=56):
    """A smooth ``[H, W, C]`` uint8 patch, different along both axes and in each channel."""
    row, col = np.mgrid[:height, :width]
    planes = [row * 3 + col, 255 - 2 * row - 2 * col, 40 + 2 * row + col]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_is_exact_for_us_and_for_tensorflow(dtype, channels):
    patch = noise(dtype, channels)
    data = encode_patch(patch, "png")

    assert_same(decode_patch(data, "png", patch.shape, dtype), patch)
    assert_same(tf.io.decode_png(data, dtype=dtype).numpy(), patch)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_png_is_exact_for_pillow(channels, mode):
    patch = noise("uint8", channels)
    image = Image.open(io.BytesIO(encode_patch(patch, "png")))

    assert (image.format, image.mode, image.size) == ("PNG", mode, (9, 13))
    assert_same(np.asarray(image).reshape(patch.shape), patch)


def test_png_of_a_grey_16_bit_patch_is_exact_for_pillow():
    patch = noise("uint16", 1)
    image = Image.open(io.BytesIO(encode_patch(patch, "png")))

    assert (image.mode, image.size) == ("I;16", (9, 13))
    assert_same(np.asarray(image), patch[..., 0])


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_a_patch_of_one_pixel_is_exact(encoding):
    patch = np.array([[[1, 2, 3]]], np.uint8)

    assert_same(decode_patch(encode_patch(patch, encoding), encoding, (1, 1, 3), "uint8"), patch)


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint16", 3), ("float32", 1), ("float32", 12)])
def test_raw_is_exact(dtype, channels):
    patch = noise(dtype, channels)

    assert_same(decode_patch(encode_patch(patch, "raw"), "raw", patch.shape, dtype), patch)


def test_raw_keeps_the_bits_of_nan_infinity_and_negative_zero():
    patch = np.array([0x7FC00001, 0xFF800000, 0x80000000, 1], np.uint32).view(np.float32).reshape(2, 2, 1)

    assert decode_patch(encode_patch(patch, "raw"), "raw", (2, 2, 1), "float32").tobytes() == patch.tobytes()


def test_raw_is_little_endian_in_c_order_and_nothing_else():
    patch = np.array([[[1, 2], [3, 4], [5, 6]], [[256, 0], [0, 0], [0, 0xABCD]]], np.uint16)
    expected = bytes([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xCD, 0xAB])

    assert encode_patch(patch, "raw") == expected
    assert encode_patch(np.asfortranarray(patch), "raw") == expected
    assert encode_patch(patch.astype(">u2"), "raw") == expected
    assert encode_patch(np.array([[[-1.5]]], np.float32), "raw") == bytes([0, 0, 0xC0, 0xBF])


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_a_smooth_patch_is_close_and_the_same_in_tensorflow(channels):
    patch = gradient(channels)
    data = encode_patch(patch, "jpeg")
    decoded = decode_patch(data, "jpeg", patch.shape, "uint8")

    assert np.abs(decoded.astype(int) - patch).max() <= 8
    assert np.abs(decoded.astype(int) - patch).mean() <= 1
    assert_same(decoded, tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_decoding_is_that_of_tensorflow_for_noise_of_odd_size_and_low_quality(channels):
    patch = noise("uint8", channels, 37, 51)
    data = encode_patch(patch, "jpeg", quality=40)
    expected = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy()

    assert_same(decode_patch(data, "jpeg", patch.shape, "uint8"), expected)


def test_jpeg_has_the_quality_asked_for_and_half_the_colour_resolution():
    tables = {}
    for quality in (50, 95):
        image = Image.open(io.BytesIO(encode_patch(gradient(3), "jpeg", quality)))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (56, 40))
        assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
        tables[quality] = image.quantization  # type: ignore[attr-defined]
        reference = io.BytesIO()
        Image.fromarray(gradient(3)).save(reference, "JPEG", quality=quality)
        assert image.quantization == Image.open(reference).quantization  # type: ignore[attr-defined]

    assert tables[50] != tables[95]


@pytest.mark.parametrize("encoding", ["png", "jpeg", "raw"])
def test_a_view_into_a_larger_array_is_encoded_as_its_copy(encoding):
    patch = gradient(3)[3:35:2, 5:50]
    patch.flags.writeable = False

    assert encode_patch(patch, encoding) == encode_patch(patch.copy(), encoding)


def damaged(encoding, how):
    data = encode_patch(gradient(3), encoding)
    return {"empty": b"", "cut off": data[:30], "another file": b"II*\0" + data[4:], "longer": data + b"\0"}[how]


@pytest.mark.parametrize(
    ("encoding", "how"),
    [(e, how) for e in ("png", "jpeg", "raw") for how in ("empty", "cut off")]
    + [("png", "another file"), ("jpeg", "another file"), ("raw", "longer")],
)
def test_damaged_bytes_are_an_error_that_names_the_encoding(encoding, how):
    with pytest.raises(ValueError, match=f"the {encoding} bytes of the patch do not decode: "):
        decode_patch(damaged(encoding, how), encoding, (40, 56, 3), "uint8")


def test_a_flipped_byte_in_a_png_is_an_error():
    data = bytearray(encode_patch(gradient(3), "png"))
    data[60] ^= 0xFF

    with pytest.raises(ValueError, match="the png bytes of the patch do not decode: "):
        decode_patch(bytes(data), "png", (40, 56, 3), "uint8")


def test_a_jpeg_without_its_second_half_is_an_error():
    data = encode_patch(noise("uint8", 3, 40, 56), "jpeg")

    with pytest.raises(ValueError, match="the jpeg bytes of the patch do not decode: they end early"):
        decode_patch(data[: len(data) // 2], "jpeg", (40, 56, 3), "uint8")


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((56, 40, 3), "uint8"), ((40, 56, 1), "uint8"), ((40, 56, 4), "uint8"), ((40, 56, 3), "uint16")],
)
def test_another_shape_or_dtype_than_expected_is_an_error_with_both(encoding, shape, dtype):
    data = encode_patch(gradient(3), encoding)

    with pytest.raises(ValueError) as error:
        decode_patch(data, encoding, shape, dtype)
    assert str(error.value) == f"the {encoding} patch is (40, 56, 3) uint8, expected {shape} {dtype}"


@pytest.mark.parametrize(("shape", "dtype"), [((40, 56, 1), "uint8"), ((40, 56, 3), "uint16")])
def test_raw_bytes_of_another_length_than_expected_are_an_error(shape, dtype):
    with pytest.raises(ValueError, match="the raw bytes of the patch do not decode: "):
        decode_patch(encode_patch(gradient(3), "raw"), "raw", shape, dtype)


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 3), ("uint8", 5)])
def test_what_png_cannot_hold_is_an_error(dtype, channels):
    with pytest.raises(ValueError):
        encode_patch(noise(dtype, channels), "png")
