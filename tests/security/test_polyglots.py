"""Files that are two things at once, and formats that are not on the list."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import zipfile
import zlib

import pytest
from PIL import Image

from bench.server import ROOT, Server
from tests.helpers import encode
from tests.security.attack_files import PAYLOAD, STRIP, icc_segments, jpeg, png, segment, webp
from tests.security.mutations import SRGB, saved


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil.html", PAYLOAD)
    return file.getvalue()


WEBP_OWN = ("loop", "background", "timestamp", "duration")
XMP = b"http://ns.adobe.com/xap/1.0/\0"
POLYGLOTS: dict[str, bytes] = {
    "a PNG that is a ZIP": encode(STRIP) + zipped(),
    "a PNG that is HTML": png((b"tEXt", b"Comment\0" + PAYLOAD), (b"iTXt", b"a\0\0\0\0\0" + PAYLOAD), (b"juNk", PAYLOAD)),
    "a PNG whose profile goes on": png((b"iCCP", b"x\0\0" + zlib.compress(SRGB + PAYLOAD))),
    "a PNG whose profile is none": png((b"iCCP", b"x\0\0" + zlib.compress(PAYLOAD * 10))),
    "a JPEG that is JavaScript": jpeg(segment(0xFE, b"=1;" + PAYLOAD), segment(0xE1, XMP + PAYLOAD), segment(0xED, PAYLOAD)),
    "a JPEG with something behind it": encode(STRIP, "JPEG") + PAYLOAD + zipped(),
    "a JPEG with EXIF": jpeg(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + PAYLOAD)),
    "a JPEG whose profile goes on": jpeg(icc_segments(SRGB + PAYLOAD)),
    "a WebP with XMP": webp((b"XMP ", PAYLOAD), (b"JUNK", PAYLOAD), flags=4),
    "a WebP with something behind it": encode(STRIP, "WEBP") + zipped(),
    "a WebP whose profile goes on": webp((b"ICCP", SRGB + PAYLOAD), flags=0x20),
    "a BMP with something behind it": encode(STRIP, "BMP") + PAYLOAD + zipped(),
    "a TIFF with something behind it": encode(STRIP, "TIFF", description=PAYLOAD.decode()) + PAYLOAD + zipped(),
    "a TIFF whose profile goes on": encode(STRIP, "TIFF", icc_profile=SRGB + PAYLOAD),
    "a GIF with a comment": encode(STRIP.convert("P"), "GIF", comment=PAYLOAD) + PAYLOAD + zipped(),
    "an AVIF with XMP": encode(STRIP, "AVIF", xmp=PAYLOAD, icc_profile=SRGB + PAYLOAD) + zipped(),
    "a HEIC with something behind it": saved(STRIP, "HEIF") + b"\0\0\0\x2fjunk" + PAYLOAD,
}


@pytest.mark.parametrize("output_format", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("polyglot", POLYGLOTS)
def test_nothing_of_a_polyglot_comes_out(server: Server, polyglot: str, output_format: str) -> None:
    data = POLYGLOTS[polyglot]
    assert PAYLOAD in data or "PNG" in polyglot
    result = base64.b64decode(server.upscale(data, output_format=output_format)["base64"])
    assert PAYLOAD not in result
    assert not zipfile.is_zipfile(io.BytesIO(result))
    with Image.open(io.BytesIO(result)) as image:
        image.load()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "icc_profile", *WEBP_OWN}
        assert image.info.get("icc_profile", SRGB) == SRGB


# formats that are not on the list

SPY = """
import io, sys
from PIL import Image
from imaging.encode import encode_image
from imaging.formats import open_image
from core.errors import BadRequest
from tests.helpers import decode
from tests.security.mutations import corpus

picture = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
for name in ("jpeg", "png", "webp"):  # Pillow prepares itself when it first writes
    encode_image(decode(corpus(picture)[4])[0], name, 90)
asked, decoders = [], set()
Image.OPEN.update({name: ((lambda *_, n=name: asked.append(n)), (lambda *_, n=name: asked.append(n))) for name in Image.OPEN})
get_decoder = Image._getdecoder
Image._getdecoder = lambda mode, name, *rest: decoders.add(name) or get_decoder(mode, name, *rest)

for data in corpus(picture):
    decode(data)
allowed, refused = set(decoders), 0
Image.init()
taken = {"PNG", "JPEG", "WEBP", "BMP", "MPO", "DIB", "TIFF", "GIF", "AVIF"}
for format_name in sorted(set(Image.SAVE) - taken):
    for mode in ("RGB", "L", "1", "P"):
        file = io.BytesIO()
        try:
            picture.convert(mode).save(file, format_name)
        except Exception:
            continue
        for disguise in (b"", b"BM", b"RIFF0000WEBP", b"\\xff\\xd8\\xff"):
            for function in (open_image, decode):
                try:
                    function(disguise + file.getvalue())
                except BadRequest:
                    refused += 1
                else:
                    raise SystemExit(f"{format_name} was taken")
print(sorted(allowed), sorted(decoders - allowed), asked, refused)
"""


def test_formats_outside_the_list_reach_no_decoder() -> None:
    spy = subprocess.run([sys.executable, "-c", SPY], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert spy.returncode == 0, spy.stderr
    output = spy.stdout.strip()
    refused = int(output.rpartition(" ")[2])
    assert output == f"['gif', 'jpeg', 'libtiff', 'raw', 'zip'] [] [] {refused}"
    assert refused > 100
