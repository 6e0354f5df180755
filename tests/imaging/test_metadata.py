"""Metadata that goes out again: read by Pillow and, where it is there, by exiftool; hostile EXIF ends soon."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import subprocess
import time
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from imaging.containers.exif import MAX_ENTRIES, MAX_METADATA_BYTES
from imaging.encode import encode_image
from imaging.formats import open_image
from imaging.metadata import NO_METADATA, Metadata, kept_metadata
from imaging.picture import Picture
from imaging.sanitize import SanitizedFile
from tests.helpers import HANG_SECONDS, encode, sample_crop

PIXELS = sample_crop(24, 16)
FORMATS = ("jpeg", "png", "webp")
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmp:Rating="4" '
    b'tiff:Orientation="6" tiff:ImageWidth="16" xmpNote:HasExtendedXMP="0123456789ABCDEF0123456789ABCDEF">'
    b"<exif:PixelXDimension>16</exif:PixelXDimension><exif:PixelYDimension>24</exif:PixelYDimension>"
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def exif_of(order: str = "<", thumbnail: bytes = b"") -> bytes:
    """What a camera writes, by Pillow: two directories, GPS, a maker's note, and a thumbnail."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0110] = "Maker", "A model with a long name"
    exif[0x0112] = 6
    exif[0x0100], exif[0x0101] = 24, 16
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 300.0, 2
    camera = exif.get_ifd(0x8769)
    camera[0x829A] = 0.005
    camera[0xA002], camera[0xA003] = 24, 16
    camera[0x927C] = b"MAKER\0\1\2" * 20
    camera[0x9214] = (5, 5, 3, 3)
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    block = exif.tobytes()
    if not thumbnail:
        return block
    tiff = bytearray(block.removeprefix(b"Exif\0\0"))
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, at)
    struct.pack_into(order + "I", tiff, at + 2 + 12 * count, len(tiff))
    entries = [(0x0201, 4, 1, len(tiff) + 30), (0x0202, 4, 1, len(thumbnail))]
    tiff += struct.pack(order + "H", 2) + b"".join(struct.pack(order + "HHII", *entry) for entry in entries) + bytes(4)
    return b"Exif\0\0" + bytes(tiff) + thumbnail


def keep(file: SanitizedFile, image_format: str) -> tuple[bytes, Metadata, list[str]]:
    """A result of 16×24 pixels with what is kept of the file's metadata."""
    picture = Picture(np.ascontiguousarray(np.rot90(PIXELS)))
    metadata, warnings = kept_metadata(file, 16, 24, image_format)
    data, more = encode_image(picture, image_format, 95, metadata)
    plain, _ = encode_image(picture, image_format, 95)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(io.BytesIO(plain))))
    return data, metadata, [*warnings, *more]


def exiftool(data: bytes) -> dict[str, Any]:
    """What exiftool reads, with every warning that it has."""
    if not (program := shutil.which("exiftool")):
        pytest.skip("exiftool is not installed")
    command = [program, "-json", "-G1", "-n", "-validate", "-warning", "-a", "-all", "-"]
    run = subprocess.run(command, input=data, capture_output=True, check=False)  # noqa: S603
    read: dict[str, Any] = json.loads(run.stdout)[0]
    return read


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_what_a_camera_wrote_is_there_again_and_right_for_the_result(source: str, image_format: str, order: str) -> None:
    options = {"exif": exif_of(order, thumbnail=b"\xff\xd8 thumbnail"), "dpi": (300, 300)}
    file = open_image(encode(PIXELS, source, xmp=XMP, **options)).file
    data, metadata, warnings = keep(file, image_format)
    assert warnings == []
    assert b"thumbnail" not in data
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        exif = image.getexif()
        assert (exif[0x0112], exif[0x0110], exif[0x0100], exif[0x0101]) == (1, "A model with a long name", 16, 24)
        camera, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert (float(camera[0x829A]), camera[0xA002], camera[0xA003], 0x9214 in camera) == (0.005, 16, 24, False)
        assert camera[0x927C] == b"MAKER\0\1\2" * 20
        assert tuple(map(float, gps[2])) == (52.0, 31.0, 12.0)
        assert exif.get_ifd(1) == {}
        if image_format != "webp":
            assert tuple(map(round, image.info["dpi"])) == (300, 300)
        assert float(exif[0x011A]) == 300
    if source != "PNG":  # Pillow writes none there
        assert b'tiff:Orientation="1" tiff:ImageWidth="16">' in metadata.xmp
        assert b"<exif:PixelXDimension>16</exif:PixelXDimension><exif:PixelYDimension>24<" in metadata.xmp
        assert metadata.xmp in data
        assert b'xmp:Rating="4"' in data
    assert metadata.exif.find(b"MAKER") == file.exif.removeprefix(b"Exif\0\0").find(b"MAKER"), "offsets in it are wrong now"


@pytest.mark.parametrize("image_format", FORMATS)
def test_exiftool_finds_nothing_wrong(image_format: str) -> None:
    file = open_image(encode(PIXELS, "JPEG", exif=exif_of(">", b"\xff\xd8 thumbnail"), dpi=(300, 300), xmp=XMP)).file
    data, _, _ = keep(file, image_format)
    read = exiftool(data)
    wrong = [value for name, value in read.items() if name.endswith((":Warning", ":Error"))]
    missing = ("Missing required", "Non-standard", "IFD0 tag 0x0100", "IFD0 tag 0x0101", "XMP-xmpNote", "incorrect order")
    assert [value for value in wrong if not any(known in value for known in missing)] == []
    assert (read["IFD0:Orientation"], read["XMP-tiff:Orientation"], read["XMP-xmp:Rating"]) == (1, 1, 4)
    assert (read["ExifIFD:ExifImageWidth"], read["ExifIFD:ExifImageHeight"]) == (16, 24)
    assert "IFD1:ThumbnailOffset" not in read
    assert (read["IFD0:XResolution"], read["GPS:GPSLatitudeRef"]) == (300, "N")


def test_the_xmp_of_a_png_is_found_wherever_it_is() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("Comment", "something else")
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    data, _, warnings = keep(open_image(encode(PIXELS, pnginfo=info)).file, "png")
    assert warnings == []
    with Image.open(io.BytesIO(data)) as image:
        assert b'tiff:Orientation="1"' in image.info["xmp"]
        assert b"something else" not in data
    packed = PngInfo()
    packed.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    _, metadata, warnings = keep(open_image(encode(PIXELS, pnginfo=packed)).file, "png")
    assert (metadata, warnings) == (NO_METADATA, ["The XMP data is damaged: it was left out."])


@pytest.mark.parametrize(
    ("source", "dpi"),
    [("PNG", (300, 300)), ("PNG", (72, 144)), ("JPEG", (96, 96)), ("BMP", (150, 150)), ("JPEG", (50, 65535))],
)
def test_print_density_goes_out_again_in_every_format(source: str, dpi: tuple[int, int]) -> None:
    file = open_image(encode(PIXELS, source, dpi=dpi)).file
    for image_format in FORMATS:
        data, _, _ = keep(file, image_format)
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            read = (exif[0x011A], exif[0x011B]) if image_format == "webp" else image.info["dpi"]
        assert tuple(float(value) for value in read) == pytest.approx(dpi, rel=0.001)


def test_density_by_the_centimetre_stays_so() -> None:
    data = bytearray(encode(PIXELS, "JPEG", dpi=(118, 118)))
    data[13] = 2
    made, _, _ = keep(open_image(bytes(data)).file, "jpeg")
    assert made[13:18] == b"\2" + struct.pack(">HH", 118, 118)


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_where_nothing_is_there_nothing_is_written(source: str) -> None:
    file = open_image(encode(PIXELS, source)).file
    for image_format in FORMATS:
        data, metadata, warnings = keep(file, image_format)
        assert (metadata, warnings) == (NO_METADATA, [])
        assert data == encode_image(Picture(np.ascontiguousarray(np.rot90(PIXELS))), image_format, 95)[0]


def test_transparency_and_profile_stay_where_webp_gets_its_metadata() -> None:
    alpha = np.arange(24 * 16, dtype=np.uint8).reshape(24, 16)
    picture = Picture(np.ascontiguousarray(np.rot90(PIXELS)), alpha, icc_profile=b"profile of some kind")
    metadata, _ = kept_metadata(SanitizedFile(b"", exif=exif_of(), xmp=XMP), 16, 24, "webp")
    data, _ = encode_image(picture, "webp", 95, metadata)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.info["icc_profile"], image.getexif()[0x0112]) == ("RGBA", b"profile of some kind", 1)
        np.testing.assert_array_equal(np.asarray(image)[..., 3], alpha)


def directory(order: str, *entries: tuple[int, int, int, int], next_at: int = 0) -> bytes:
    packed = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return struct.pack(order + "H", len(entries)) + packed + struct.pack(order + "I", next_at)


HEAD = b"II*\0" + struct.pack("<I", 8)
HOSTILE: dict[str, bytes] = {
    "no TIFF": b"anything",
    "no directory": HEAD,
    "65,535 entries": HEAD + struct.pack("<H", 65_535) + struct.pack("<HHII", 0x010F, 2, 1, 0) * 65_535,
    "one entry too many": HEAD + directory("<", *[(number, 3, 1, 0) for number in range(0x9000, 0x9000 + MAX_ENTRIES + 1)]),
    "a value beyond the end": HEAD + directory("<", (0x010F, 2, 100, 20)),
    "4 GB of values": HEAD + directory("<", (0x010F, 12, 2**32 - 1, 8)),
    "an unknown kind": HEAD + directory("<", (0x010F, 99, 1, 8)),
    "a pointer that is none": HEAD + directory("<", (0x8769, 2, 8, 8)),
    "a pointer beyond the end": HEAD + directory("<", (0x8769, 4, 1, 2**32 - 1)),
    "a header alone": b"MM\0*",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_exif_is_left_out_with_a_warning_and_soon(name: str) -> None:
    for block in (HOSTILE[name], b"Exif\0\0" + HOSTILE[name]):
        for image_format in FORMATS:
            _, metadata, warnings = keep(SanitizedFile(b"", exif=block), image_format)
            assert (metadata.exif, warnings) == (b"", ["The EXIF data is damaged: it was left out."])


def test_loops_lead_nowhere() -> None:
    looping = HEAD + directory("<", (0x010F, 2, 4, 0x41), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8), next_at=8)
    _, metadata, warnings = keep(SanitizedFile(b"", exif=looping), "png")
    assert warnings == []
    assert len(metadata.exif) < 300


def test_values_that_overlap_do_not_multiply() -> None:
    entries = [(tag, 7, 7 * 1024 * 1024 - 20_000, 8) for tag in range(0x9300, 0x9300 + MAX_ENTRIES)]
    block = (HEAD + directory("<", *entries)).ljust(7 * 1024 * 1024, b"\0")
    start = time.monotonic()
    _, metadata, warnings = keep(SanitizedFile(b"", exif=block), "png")
    assert time.monotonic() - start < HANG_SECONDS
    assert (metadata.exif, warnings) == (
        b"",
        ["The EXIF data is over 256 KiB, or more than the format holds: it was left out."],
    )


def test_what_is_too_large_together_or_for_the_format_is_left_out() -> None:
    large = HEAD + directory("<", (0x9286, 7, 100_000, 26)) + bytes(100_000)
    packet = XMP.replace(b"</rdf:Description>", b"<!--" + bytes(b" " * 170_000) + b"--></rdf:Description>")
    file = SanitizedFile(b"", exif=large, xmp=packet)
    _, metadata, warnings = keep(file, "png")
    assert (len(metadata.exif) > 100_000, metadata.xmp, len(warnings)) == (True, b"", 1)
    assert len(metadata.exif) + len(packet) > MAX_METADATA_BYTES > len(packet)
    assert kept_metadata(SanitizedFile(b"", xmp=packet), 16, 24, "png")[0].xmp
    _, metadata, warnings = keep(file, "jpeg")
    assert (metadata, len(warnings)) == (NO_METADATA, 2)


@pytest.mark.parametrize(
    "packet",
    [
        b"no XMP",
        b"\xff" + XMP,
        XMP.decode().encode("utf-16"),
        XMP[:-200],
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + XMP,
        XMP + b"\0",
    ],
)
def test_xmp_that_is_none_is_left_out_with_a_warning(packet: bytes) -> None:
    _, metadata, warnings = keep(SanitizedFile(b"", xmp=packet), "png")
    assert (metadata.xmp, warnings) == (b"", ["The XMP data is damaged: it was left out."])


@pytest.mark.parametrize(
    "filling", [b"<tiff:Orientation", b'tiff:Orientation="', b"tiff:Orientation ", b" ", b"xmpNote:HasExtendedXMP="]
)
def test_xmp_of_any_kind_is_done_soon(filling: bytes) -> None:
    packet = (b"<rdf:RDF></rdf:RDF>" + filling * (MAX_METADATA_BYTES // len(filling)))[:MAX_METADATA_BYTES]
    start = time.monotonic()
    kept_metadata(SanitizedFile(b"", xmp=packet), 16, 24, "png")
    assert time.monotonic() - start < HANG_SECONDS / 4


def test_mutants_give_metadata_that_can_be_read_or_none() -> None:
    rng, good = random.Random(5), exif_of("<", b"\xff\xd8 thumbnail").removeprefix(b"Exif\0\0")  # noqa: S311
    kept = 0
    for _ in range(3000):
        block = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            block[rng.randrange(len(block))] = rng.randrange(256)
        file = SanitizedFile(b"", exif=bytes(block[: rng.randint(len(block) // 2, len(block))]))
        metadata, warnings = kept_metadata(file, 16, 24, "png")
        assert not (metadata.exif and warnings)
        if metadata.exif:
            kept += 1
            again, more = kept_metadata(SanitizedFile(b"", exif=metadata.exif), 16, 24, "png")
            assert (again.exif, more) == (metadata.exif, [])
    assert kept > 100


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("source", ["TIFF", "AVIF", "HEIF"])
def test_newer_formats_and_tiff_keep_theirs(source: str, image_format: str) -> None:
    image, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x010F], exif[0x011A], exif[0x011B], exif[0x0128] = "Maker", 300.0, 300.0, 2
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    if source == "TIFF":
        exif[700] = XMP
        data = encode(PIXELS, "TIFF", exif=exif.tobytes())
    elif source == "AVIF":
        data = encode(PIXELS, "AVIF", exif=exif.tobytes(), xmp=XMP)
    else:
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, exif=exif.tobytes(), xmp=XMP)
        data = buffer.getvalue()
    result, _, warnings = keep(open_image(data).file, image_format)
    assert warnings == []
    with Image.open(io.BytesIO(result)) as made:
        read = made.getexif()
        assert read[0x010F] == "Maker"
        assert read.get_ifd(0x8825)[1] == "N"
        assert not {0x0111, 0x0103, 0x0102} & read.keys(), "how the TIFF's pixels are stored"
    assert b'xmp:Rating="4"' in result


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_resolution_of_another_kind_spoils_no_result(image_format: str) -> None:
    entries = [(0x011A, 1, 1, 72), (0x011B, 1, 1, 72), (0x0128, 3, 1, 2), (0x010F, 2, 4, int.from_bytes(b"ABC\0", "little"))]
    exif = b"II*\0\x08\0\0\0" + directory("<", *entries)
    data, _, warnings = keep(SanitizedFile(b"", exif), image_format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x010F] == "ABC"
    assert warnings == []
