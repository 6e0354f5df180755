"""Image files in and out: formats, modes, metadata, damage."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile

from core.config import MAX_IMAGE_BYTES
from core.errors import AnimatedImage, BadRequest, BrokenImage, FileTooLarge, NotAnImage, TooManyPixels, UnsupportedFormat
from imaging import formats, sanitize
from imaging.colour import flatten_on_white
from imaging.decode import ImageHeader, decode_image, read_header
from imaging.encode import encode_image
from imaging.picture import Picture
from tests.mutations import mutated_file

Array = NDArray[np.uint8]
H, W = 17, 24
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXACT = {"lossless": True, "exact": True}  # for WebP; the others' writers do not look at these
LONG_PROFILE = struct.pack(">I", len(SRGB) + 200_000) + SRGB[4:] + b"\0" * 200_000
GRAY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]

# The smooth picture that every test starts from: red goes across, green down, blue both ways.
_y, _x = np.mgrid[0:H, 0:W]
RGB = np.stack([_x * 255 // (W - 1), _y * 255 // (H - 1), (_x + _y) * 255 // (W + H - 2)], axis=2).astype(np.uint8)
GRAY: Array = RGB[..., 0] // 2 + RGB[..., 1] // 2
ALPHA: Array = np.ascontiguousarray(RGB[:, ::-1, 0])


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def bmp_with_alpha(image: Image.Image) -> bytes:
    """Pillow writes RGBA into a BMP whose header does not speak of alpha; this one has masks for four channels."""
    header = struct.pack("<IiiHHIIiiII", 108, W, -H, 1, 32, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"\0" * 52
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + image.tobytes("raw", "BGRA")


def in_mode(mode: str) -> Image.Image:
    image = Image.fromarray(RGB)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(ALPHA))
    return image.convert(mode)


def png(depth: int, color_type: int, rows: bytes, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (W, H)) -> bytes:
    """A PNG of unfiltered rows, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return sanitize.PNG_SIGNATURE + b"".join(map(chunk, parts))


def chunk(name_and_body: tuple[bytes, bytes]) -> bytes:
    name, body = name_and_body
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def unfiltered(samples: NDArray[Any]) -> bytes:
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big_endian)


def close(actual: Array, expected: Array, tolerance: int = 12) -> bool:
    return actual.shape == expected.shape and int(np.abs(actual.astype(int) - expected).max()) <= tolerance


def flat(color: tuple[int, ...], mode: str) -> Image.Image:
    return Image.new(mode, (W, H), color)


# --- in: formats and modes


LOSSLESS = [
    ("PNG", "RGB", RGB, None),
    ("PNG", "RGBA", RGB, ALPHA),
    ("PNG", "L", GRAY, None),
    ("PNG", "LA", GRAY, ALPHA),
    ("BMP", "RGB", RGB, None),
    ("BMP", "RGBA", RGB, ALPHA),
    ("BMP", "L", GRAY, None),
    ("WEBP", "RGB", RGB, None),
    ("WEBP", "RGBA", RGB, ALPHA),
]


@pytest.mark.parametrize(("image_format", "mode", "pixels", "alpha"), LOSSLESS, ids=lambda v: v if isinstance(v, str) else "")
def test_lossless_files_give_their_very_pixels(image_format: str, mode: str, pixels: Array, alpha: Array | None) -> None:
    image = Image.fromarray(pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    data = bmp_with_alpha(image) if (image_format, mode) == ("BMP", "RGBA") else saved(image, image_format, **EXACT)
    picture, warnings_ = decode_image(data)
    assert warnings_ == []
    np.testing.assert_array_equal(picture.pixels, pixels)
    if alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_lossy_files_give_nearly_their_pixels_in_rgb_order(image_format: str, progressive: bool) -> None:
    data = saved(in_mode("RGB"), image_format, quality=95, subsampling=0, progressive=progressive)
    assert close(decode_image(data)[0].pixels, RGB)


def test_gray_jpeg_stays_gray() -> None:
    picture, _ = decode_image(saved(Image.fromarray(GRAY), "JPEG", quality=95))
    assert close(picture.pixels, GRAY)


def test_decoded_arrays_can_be_written_to() -> None:
    picture, _ = decode_image(saved(in_mode("RGBA"), "PNG"))
    assert picture.alpha is not None
    assert picture.pixels.flags.writeable and picture.pixels.flags.c_contiguous
    assert picture.alpha.flags.writeable and picture.alpha.flags.c_contiguous


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_one_bit_becomes_black_and_white_gray(image_format: str) -> None:
    bits = RGB[..., 0] > 127
    picture, _ = decode_image(saved(Image.fromarray(bits), image_format))
    np.testing.assert_array_equal(picture.pixels, np.where(bits, 255, 0))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_of_every_depth_become_rgb(depth: int) -> None:
    colors = RGB.reshape(-1, 3)[:: max(1, H * W // 2**depth)][: 2**depth]
    indices = (np.arange(H * W).reshape(H, W) % len(colors)).astype(np.uint8)
    bits = np.unpackbits(indices[..., None], axis=2)[..., -depth:].reshape(H, -1)
    picture, _ = decode_image(png(depth, 3, unfiltered(np.packbits(bits, axis=1)), (b"PLTE", colors.tobytes())))
    np.testing.assert_array_equal(picture.pixels, colors[indices])


@pytest.mark.parametrize("transparent", [b"\0", b"\xff\x80\x40"], ids=["one colour", "a value for each"])
def test_transparency_of_a_palette_becomes_alpha(transparent: bytes) -> None:
    indices = (np.arange(H * W).reshape(H, W) % 4).astype(np.uint8)
    colors = RGB.reshape(-1, 3)[40:44]
    data = png(8, 3, unfiltered(indices), (b"PLTE", colors.tobytes()), (b"tRNS", transparent))
    picture, _ = decode_image(data)
    opacities = np.frombuffer(transparent.ljust(4, b"\xff"), np.uint8)
    np.testing.assert_array_equal(picture.pixels, colors[indices])
    np.testing.assert_array_equal(picture.alpha, opacities[indices])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_gray_level_of_a_png_becomes_alpha(depth: int) -> None:
    levels = (np.arange(H * W).reshape(H, W) % 2**depth).astype(np.uint8)
    bits = np.unpackbits(levels[..., None], axis=2)[..., -depth:].reshape(H, -1)
    picture, _ = decode_image(png(depth, 0, unfiltered(np.packbits(bits, axis=1)), (b"tRNS", struct.pack(">H", 1))))
    np.testing.assert_array_equal(picture.pixels, levels.astype(int) * 255 // (2**depth - 1))
    np.testing.assert_array_equal(picture.alpha, np.where(levels == 1, 0, 255))


def test_transparent_color_of_a_png_becomes_alpha() -> None:
    key = RGB[3, 5]
    picture, _ = decode_image(png(8, 2, unfiltered(RGB), (b"tRNS", struct.pack(">3H", *key))))
    np.testing.assert_array_equal(picture.pixels, RGB)
    np.testing.assert_array_equal(picture.alpha, np.where((key == RGB).all(axis=2), 0, 255))


def test_sixteen_bit_gray_is_scaled_and_rounded() -> None:
    values = np.linspace(0, 65535, H * W).astype(np.uint16).reshape(H, W)
    picture, _ = decode_image(png(16, 0, unfiltered(values), (b"tRNS", struct.pack(">H", values[1, 1]))))
    np.testing.assert_array_equal(picture.pixels, np.round(values / 257))
    np.testing.assert_array_equal(picture.alpha, np.where(values == values[1, 1], 0, 255))


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
def test_sixteen_bit_color_and_alpha_become_eight(color_type: int, channels: int) -> None:
    eight = np.dstack([RGB, ALPHA])[..., -channels:] if channels != 3 else RGB
    picture, _ = decode_image(png(16, color_type, unfiltered(eight.astype(np.uint16) * 257)))
    expected = eight[..., 0] if color_type == 4 else eight[..., :3]
    np.testing.assert_array_equal(picture.pixels, expected)
    if color_type in (4, 6):
        np.testing.assert_array_equal(picture.alpha, eight[..., -1])


def test_opaque_alpha_is_still_alpha() -> None:
    image = in_mode("RGB")
    image.putalpha(255)
    for data in (saved(image, "PNG"), bmp_with_alpha(image)):
        assert read_header(data).has_alpha
        np.testing.assert_array_equal(decode_image(data)[0].alpha, 255)


def test_image_of_one_pixel_is_valid() -> None:
    for image_format in ("PNG", "JPEG", "WEBP", "BMP"):
        picture, _ = decode_image(saved(Image.new("RGB", (1, 1), (255, 255, 255)), image_format))
        assert close(picture.pixels, np.full((1, 1, 3), 255, np.uint8), 2)


def test_stripes_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imaging.picture.STRIPE_PX", 5 * W)
    picture, _ = decode_image(saved(in_mode("RGBA"), "PNG"))
    np.testing.assert_array_equal(picture.pixels, RGB)
    np.testing.assert_array_equal(picture.alpha, ALPHA)


# --- in: CMYK


def cmyk_profile() -> bytes:
    """A press whose cyan ink is green, so that using the profile can be told from ignoring it."""
    corners = bytearray()
    for node in range(16):
        inks = [node >> 3 & 1, node >> 2 & 1, node >> 1 & 1, node & 1]
        lab = (150, 70, 180) if inks == [1, 0, 0, 0] else (255 - 60 * sum(inks), 128, 128)
        corners += bytes(max(0, v) for v in lab)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(corners) + ramp * 3
    lut += b"\0" * (-len(lut) % 4)
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut))
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 144 + len(lut))
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    return bytes(header) + tags + lut


def test_cmyk_without_profile_becomes_rgb() -> None:
    for color, expected in [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))]:
        picture, warnings_ = decode_image(saved(flat(color, "CMYK"), "JPEG", quality=95))
        assert close(picture.pixels, np.full((H, W, 3), expected, np.uint8))
        assert warnings_ == []


def test_cmyk_goes_through_its_profile_which_is_then_dropped() -> None:
    picture, warnings_ = decode_image(saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", quality=95, icc_profile=cmyk_profile()))
    red, green, blue = picture.pixels[3, 3].astype(int)
    assert green > red + 60 and green > blue + 60
    assert picture.icc_profile is None
    assert warnings_ == []


def test_ycck_jpeg_becomes_rgb() -> None:
    """Pillow writes none: the stored 200, 128, 128, 255 of this CMYK file are declared to be a gray in YCC, and no black."""
    cmyk = saved(flat((55, 127, 127, 0), "CMYK"), "JPEG", quality=95)
    transform = cmyk.index(b"Adobe") + 11
    picture, _ = decode_image(cmyk[:transform] + b"\x02" + cmyk[transform + 1 :])
    assert close(picture.pixels, np.full((H, W, 3), 55, np.uint8), 3)


@pytest.mark.parametrize("profile", [b"x" * 200, SRGB, cmyk_profile()[:200], cmyk_profile()[:128]])
def test_unusable_cmyk_profile_gives_a_warning_and_the_plain_conversion(profile: bytes) -> None:
    picture, warnings_ = decode_image(saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", quality=95, icc_profile=profile))
    assert close(picture.pixels, np.full((H, W, 3), (0, 255, 255), np.uint8))
    assert len(warnings_) == 1 and "profile" in warnings_[0]


# --- in: profiles


@pytest.mark.parametrize(
    ("image_format", "mode", "profile"),
    [
        *((image_format, "RGB", SRGB) for image_format in ("PNG", "JPEG", "WEBP")),
        *((image_format, "RGB", LONG_PROFILE) for image_format in ("PNG", "JPEG", "WEBP")),
        *((image_format, "L", GRAY_PROFILE) for image_format in ("PNG", "JPEG")),
    ],
)
@pytest.mark.parametrize("output", ["png", "jpeg", "webp"])
def test_profile_survives_byte_for_byte(image_format: str, mode: str, profile: bytes, output: str) -> None:
    picture, warnings_ = decode_image(saved(in_mode(mode), image_format, icc_profile=profile))
    assert picture.icc_profile == profile and warnings_ == []
    written, warnings_ = encode_image(picture, output, 90)
    kept = Image.open(io.BytesIO(written)).info.get("icc_profile")
    if (mode, output) == ("L", "webp"):  # its pixels are RGB, which a profile of gray does not describe
        assert kept is None and "colour profile" in warnings_[0]
    else:
        assert kept == profile and warnings_ == []


def test_profile_of_a_palette_image_is_kept() -> None:
    picture, warnings_ = decode_image(saved(in_mode("P"), "PNG", icc_profile=SRGB))
    assert picture.icc_profile == SRGB and warnings_ == []


@pytest.mark.parametrize(
    ("mode", "profile"), [("L", SRGB), ("RGB", GRAY_PROFILE), ("RGB", b"no profile"), ("RGB", cmyk_profile())]
)
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_profile_of_another_color_space_is_dropped_with_a_warning(image_format: str, mode: str, profile: bytes) -> None:
    picture, warnings_ = decode_image(saved(in_mode(mode), image_format, icc_profile=profile))
    assert picture.icc_profile is None
    assert len(warnings_) == 1 and "profile" in warnings_[0]


@pytest.mark.parametrize(
    "body", [b"", b"name\0\0garbage", b"name\0\0" + zlib.compress(b"\0" * (sanitize.MAX_PROFILE_BYTES + 1))]
)
def test_broken_or_exploding_profile_of_a_png_is_dropped_with_a_warning(body: bytes) -> None:
    picture, warnings_ = decode_image(png(8, 2, unfiltered(RGB), (b"iCCP", body)))
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.icc_profile is None and len(warnings_) == 1


def test_jpeg_profile_with_a_part_missing_is_dropped_with_a_warning() -> None:
    whole = saved(in_mode("RGB"), "JPEG", icc_profile=SRGB)
    data = whole.replace(b"ICC_PROFILE\0\x01\x01", b"ICC_PROFILE\0\x01\x02")
    picture, warnings_ = decode_image(data)
    assert picture.icc_profile is None and len(warnings_) == 1


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "PNG"])
def test_what_follows_a_profile_does_not_go_out_again(image_format: str) -> None:
    picture, warnings_ = decode_image(saved(in_mode("RGB"), image_format, icc_profile=SRGB + b"<script>"))
    assert picture.icc_profile == SRGB and warnings_ == []


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "PNG"])
def test_profile_of_many_megabytes_is_dropped_with_a_warning(image_format: str) -> None:
    size = sanitize.MAX_PROFILE_BYTES + 4
    profile = struct.pack(">I", size) + SRGB[4:] + b"\0" * (size - len(SRGB))
    picture, warnings_ = decode_image(saved(in_mode("RGB"), image_format, icc_profile=profile))
    assert picture.icc_profile is None and len(warnings_) == 1


# --- in: EXIF


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """One other tag before the one that counts."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], orientation).ljust(4, b"\0")
    entries = struct.pack(order + "HHII", 0x0100, 3, 1, 7) + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + magic + struct.pack(order + "IH", 8, 2) + entries + b"\0\0\0\0"


def with_exif(image: Image.Image, image_format: str, body: bytes) -> bytes:
    """Pillow's writer would read the EXIF itself."""
    if image_format == "JPEG":
        data = saved(image, "JPEG", quality=95, subsampling=0)
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    return saved(image, image_format, **EXACT, exif=body)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(image_format: str, orientation: int) -> None:
    methods = [None, None, *(Image.Transpose(i) for i in (0, 3, 1, 5, 4, 6, 2))]
    method = methods[orientation]
    image = in_mode("RGBA" if image_format != "JPEG" else "RGB")
    expected = np.asarray(image if method is None else image.transpose(method))
    data = with_exif(image, image_format, exif(orientation))
    picture, warnings_ = decode_image(data)
    assert warnings_ == []
    assert close(picture.pixels, expected[..., :3])
    if image_format != "JPEG":
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])
    header = read_header(data)
    assert (header.width, header.height) == (picture.width, picture.height) == ((W, H) if orientation < 5 else (H, W))
    assert "exif" not in Image.open(io.BytesIO(encode_image(picture, "jpeg", 90)[0])).info


@pytest.mark.parametrize(("order", "kind"), [("<", 1), (">", 3), ("<", 4), (">", 4)])
def test_orientation_is_found_in_either_byte_order_and_any_width(order: str, kind: int) -> None:
    header = read_header(with_exif(in_mode("RGB"), "JPEG", exif(6, order, kind)))
    assert (header.width, header.height) == (H, W)


def test_orientation_zero_means_that_the_camera_did_not_know() -> None:
    picture, warnings_ = decode_image(with_exif(in_mode("RGB"), "JPEG", exif(0)))
    assert close(picture.pixels, RGB) and warnings_ == []


BROKEN_EXIF = [
    exif(9),
    exif(6)[:20],
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0nonsense",
    exif(6).replace(b"\x12\x01\x03", b"\x12\x01\x07"),
]


@pytest.mark.parametrize("body", BROKEN_EXIF)
@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_broken_exif_is_a_warning_and_no_error(image_format: str, body: bytes) -> None:
    data = with_exif(in_mode("RGB"), image_format, body)
    picture, warnings_ = decode_image(data)
    assert close(picture.pixels, RGB)
    assert warnings_ == ["The EXIF data is damaged: the image was not rotated."]
    assert read_header(data).width == W


# --- in: what is refused


def test_nothing_is_not_an_image() -> None:
    with pytest.raises(NotAnImage, match="empty"):
        decode_image(b"")


@pytest.mark.parametrize(
    "data", [b"hello", b"\0" * 100, b"BMW is a maker of cars and of motorcycles", b"RIFF\0\0\0\0", b"\xff\xd8"]
)
def test_unknown_bytes_are_not_an_image(data: bytes) -> None:
    with pytest.raises(NotAnImage, match="PNG, JPEG, WebP or BMP"):
        read_header(data)


FOREIGN = [
    (saved(Image.new("L", (3, 3)), "GIF"), "GIF"),
    (saved(Image.new("L", (3, 3)), "TIFF"), "TIFF"),
    (b"MM\0*\0\0\0\x08", "TIFF"),
    (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC"),
    (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
    (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"%PDF-1.7", "PDF"),
    (b"8BPS\0\1", "PSD"),
    (b"\xef\xbb\xbf \n<SVG xmlns=", "SVG"),
    (b"<?xml version='1.0'?><svg>", "SVG"),
    (b"<!DOCTYPE html>", "HTML"),
]


@pytest.mark.parametrize(("data", "name"), FOREIGN, ids=[name for _, name in FOREIGN])
def test_other_formats_are_named_with_those_that_are_allowed(data: bytes, name: str) -> None:
    for function in (read_header, decode_image):
        with pytest.raises(UnsupportedFormat, match=f"{name}.*PNG, JPEG, WebP or BMP"):
            function(data)


def test_file_over_the_limit_is_refused_with_both_figures() -> None:
    data = saved(Image.new("L", (1, 1)), "PNG")
    data += b"\0" * (MAX_IMAGE_BYTES - len(data))
    assert read_header(data).width == 1
    with pytest.raises(FileTooLarge, match=r"7,340,033.*7,340,032"):
        read_header(data + b"\0")


def huge(image_format: str, width: int, height: int) -> bytes:
    """A small file whose header claims to be large."""
    if image_format == "PNG":
        return png(8, 2, b"", size=(width, height))
    data = bytearray(saved(Image.new("RGB", (8, 8)), image_format))
    if image_format == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif image_format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        extended = b"VP8X" + struct.pack("<II", 10, 0) + canvas + data[12:]
        data = bytearray(b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended)
    return bytes(data)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (7681, 7680), (10_000, 10_000)])
def test_claim_of_too_many_pixels_is_refused_by_the_header(image_format: str, width: int, height: int) -> None:
    with pytest.raises(BadRequest) as caught:
        read_header(huge(image_format, width, height))
    # A still WebP whose canvas is not its picture's size is already damaged for libwebp.
    assert isinstance(caught.value, TooManyPixels | BrokenImage if image_format == "WEBP" else TooManyPixels)


def test_largest_allowed_header_is_read() -> None:
    header = read_header(huge("PNG", 7680, 7680))
    assert header.width * header.height == formats.MAX_PIXELS


def test_text_bomb_in_a_png_is_never_unpacked() -> None:
    bomb = (b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 100_000_000))
    picture, warnings_ = decode_image(png(8, 2, unfiltered(RGB), bomb))
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert warnings_ == []


def test_jpeg_of_endless_scans_is_refused() -> None:
    data = saved(in_mode("RGB"), "JPEG", progressive=True)
    scan = b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\x10"
    decode_image(data[:-2] + scan * 50 + data[-2:])
    with pytest.raises(BrokenImage):
        read_header(data[:-2] + scan * 1000 + data[-2:])


def test_png_of_endless_chunks_is_refused() -> None:
    data = png(8, 2, unfiltered(RGB))
    empty, end = chunk((b"IDAT", b"")), data.index(b"IDAT") - 4
    np.testing.assert_array_equal(decode_image(data[:end] + empty * 1000 + data[end:])[0].pixels, RGB)
    with pytest.raises(BrokenImage):
        read_header(data[:end] + empty * 500_000 + data[end:])


@pytest.mark.parametrize("compression", [1, 2])
def test_bmp_in_runs_is_refused_and_says_so(compression: int) -> None:
    data = bytearray(saved(in_mode("P"), "BMP"))
    data[28:34] = struct.pack("<HI", {1: 8, 2: 4}[compression], compression)
    with pytest.raises(UnsupportedFormat, match="RLE"):
        read_header(bytes(data))


def test_jpeg_of_endless_segments_is_refused() -> None:
    data = saved(in_mode("RGB"), "JPEG", quality=95, subsampling=0)
    assert close(decode_image(data[:2] + b"\xff\xfe\0\2" * 300 + data[2:])[0].pixels, RGB)
    with pytest.raises(BrokenImage):
        read_header(data[:2] + b"\xff\xfe\0\2" * 1_000_000 + data[2:])


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_animation_is_refused(image_format: str) -> None:
    data = saved(in_mode("RGB"), image_format, save_all=True, append_images=[flat((1, 2, 3), "RGB")], duration=100)
    with pytest.raises(AnimatedImage, match="2 frames"):
        read_header(data)


@pytest.mark.parametrize("extra", [(b"acTL", struct.pack(">II", 0, 0)), (b"acTL", struct.pack(">II", 1, 0))])
def test_animation_of_one_frame_is_a_still(extra: tuple[bytes, bytes]) -> None:
    np.testing.assert_array_equal(decode_image(png(8, 2, unfiltered(RGB), extra))[0].pixels, RGB)


def test_multi_picture_jpeg_gives_its_first_frame() -> None:
    data = saved(in_mode("RGB"), "MPO", save_all=True, append_images=[flat((1, 2, 3), "RGB")], quality=95, subsampling=0)
    opened = Image.open(io.BytesIO(data))
    assert opened.format == "MPO" and getattr(opened, "n_frames") == 2  # noqa: B009 - of MPO alone
    picture, warnings_ = decode_image(data)
    assert close(picture.pixels, RGB) and warnings_ == []


def test_bytes_after_the_image_do_no_harm() -> None:
    for image_format in ("PNG", "JPEG", "WEBP", "BMP"):
        assert read_header(saved(in_mode("RGB"), image_format) + b"\xff\xda\xff\xd8video" * 99).width == W


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_truncated_file_is_broken(image_format: str, share: float) -> None:
    data = saved(in_mode("RGB"), image_format)
    with pytest.raises(BrokenImage, match=image_format.replace("WEBP", "WebP")) as caught:
        decode_image(data[: int(len(data) * share)])
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "data",
    [sanitize.PNG_SIGNATURE, b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"RIFF\0\0\0\0WEBP", b"BM" + b"\0" * 12 + b"\x28\0\0\0"],
)
def test_only_a_signature_is_broken(data: bytes) -> None:
    with pytest.raises(BrokenImage):
        read_header(data)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"IEND"])
def test_wrong_checksum_in_a_png_is_broken(name: bytes) -> None:
    data = bytearray(saved(in_mode("RGB"), "PNG"))
    start = data.index(name)
    data[start + 4 + int.from_bytes(data[start - 4 : start], "big")] ^= 1
    with pytest.raises(BrokenImage):
        read_header(bytes(data))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_image_of_no_size_is_broken(size: tuple[int, int]) -> None:
    for data in (png(8, 2, b"", size=size), huge("JPEG", *size), huge("BMP", *size)):
        with pytest.raises(BrokenImage):
            read_header(data)


def test_png_without_pixels_is_broken() -> None:
    for data in (png(8, 2, b""), png(8, 2, unfiltered(RGB)[:100]), png(8, 9, unfiltered(RGB)), png(3, 2, unfiltered(RGB))):
        with pytest.raises(BrokenImage):
            decode_image(data)


@pytest.mark.parametrize(
    "foreign",
    [OSError, SyntaxError, ValueError, struct.error, EOFError, zlib.error, IndexError, KeyError, TypeError, OverflowError],
)
def test_every_foreign_exception_becomes_one_of_ours(monkeypatch: pytest.MonkeyPatch, foreign: type[Exception]) -> None:
    def fail(*_: object) -> None:
        raise foreign("from deep inside")

    monkeypatch.setattr(PngImageFile, "load", fail)
    with pytest.raises(BrokenImage) as caught:
        decode_image(saved(in_mode("RGB"), "PNG"))
    assert isinstance(caught.value.__cause__, foreign)
    assert "deep inside" not in caught.value.message


# --- in: anything at all


def seeds() -> list[bytes]:
    files = [
        saved(in_mode(mode), image_format)
        for image_format, modes in {
            "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
            "JPEG": ("L", "RGB", "CMYK"),
            "WEBP": ("RGB", "RGBA"),
            "BMP": ("1", "L", "P", "RGB"),
        }.items()
        for mode in modes
    ]
    files.append(saved(in_mode("RGB"), "JPEG", progressive=True, icc_profile=SRGB, exif=exif(6)))
    files.append(saved(in_mode("RGBA"), "WEBP", lossless=True, icc_profile=SRGB, exif=exif(6)))
    files.append(bmp_with_alpha(in_mode("RGBA")))
    files.append(png(16, 0, unfiltered(np.arange(H * W, dtype=np.uint16).reshape(H, W)), (b"tRNS", b"\0\7")))
    files.append(saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", icc_profile=cmyk_profile()))
    return files


def outcome(function: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return function(data)
    except BadRequest as exc:
        assert exc.message
        return None


def test_damaged_files_give_a_picture_or_a_refusal_and_nothing_else() -> None:
    rng = random.Random(7)  # noqa: S311
    files = seeds()
    for turn in range(25 * len(files)):
        data = mutated_file(files[turn % len(files)], rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            header, decoded = outcome(read_header, data), outcome(decode_image, data)
        if decoded is not None:
            picture = decoded[0]
            assert (header.width, header.height) == (picture.width, picture.height)
            assert header.has_alpha == (picture.alpha is not None)


def test_header_agrees_with_the_picture() -> None:
    for data in seeds():
        header, (picture, _) = read_header(data), decode_image(data)
        assert header == ImageHeader(picture.width, picture.height, picture.alpha is not None)


# --- out


@pytest.mark.parametrize("alpha", [None, ALPHA], ids=["opaque", "alpha"])
@pytest.mark.parametrize("pixels", [RGB, GRAY], ids=["rgb", "gray"])
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_what_is_written_reads_back(image_format: str, pixels: Array, alpha: Array | None) -> None:
    data, warnings_ = encode_image(Picture(pixels, alpha), image_format, 95)
    picture, _ = decode_image(data)
    expected = pixels
    if image_format == "jpeg" and alpha is not None:
        weight = alpha[..., None] / 255 if pixels.ndim == 3 else alpha / 255
        expected = np.round(pixels * weight + 255 * (1 - weight)).astype(np.uint8)
        assert warnings_ == ["JPEG cannot hold transparency: it was flattened on white."]
    else:
        assert warnings_ == []
    if image_format == "webp" and pixels.ndim == 2:
        expected = np.repeat(pixels[..., None], 3, axis=2)
    if image_format == "webp" and alpha is not None:  # what cannot be seen may be anything
        assert close(picture.pixels[alpha > 30], expected[alpha > 30], 25)
    else:
        assert close(picture.pixels, expected, 0 if image_format == "png" else 12)
    if image_format == "jpeg" or alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)


def test_flattening_rounds_to_the_nearest_for_every_value_and_alpha() -> None:
    values, alpha = (plane.astype(np.uint8) for plane in np.mgrid[0:256, 0:256])
    exact = np.round((values.astype(float) * alpha + 255.0 * (255.0 - alpha)) / 255)
    np.testing.assert_array_equal(flatten_on_white(values, alpha), exact)


@pytest.mark.parametrize(("quality", "sampling"), [(100, (1, 1)), (90, (1, 1)), (89, (2, 2)), (1, (2, 2))])
def test_jpeg_keeps_full_color_from_quality_90(quality: int, sampling: tuple[int, int]) -> None:
    data, _ = encode_image(Picture(RGB), "jpeg", quality)
    frame = data.index(b"\xff\xc0")
    assert divmod(data[frame + 11], 16) == sampling


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_lower_quality_makes_a_smaller_file(image_format: str) -> None:
    sizes = [len(encode_image(Picture(RGB), image_format, quality)[0]) for quality in (1, 50, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_same_picture_gives_the_same_bytes(image_format: str) -> None:
    pictures = [Picture(RGB.copy(), ALPHA.copy(), SRGB) for _ in range(2)]
    first, second = (encode_image(picture, image_format, 90)[0] for picture in pictures)
    assert first == second


def test_views_are_encoded_like_their_copies() -> None:
    view = RGB[::-1, ::2]
    assert encode_image(Picture(view), "png", 90) == encode_image(Picture(view.copy()), "png", 90)


@pytest.mark.parametrize(("image_format", "side"), [("webp", 16384), ("jpeg", 65501)])
def test_picture_too_long_for_its_format_is_a_clear_error(image_format: str, side: int) -> None:
    encode_image(Picture(np.zeros((1, side - 1), np.uint8)), image_format, 90)
    with pytest.raises(ValueError, match=f"{image_format} holds at most {side - 1} px"):
        encode_image(Picture(np.zeros((1, side), np.uint8)), image_format, 90)


def test_unknown_output_format_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="'gif' is none of jpeg, png, webp"):
        encode_image(Picture(RGB), "gif", 90)
