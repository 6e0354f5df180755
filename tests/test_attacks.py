"""Hostile input, against a server process started as an operator starts it: bombs, polyglots, foreign formats, mutants.

No 500, no hang, no growth of memory, no file left behind.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from bench.server import ROOT, Server, running_server
from core.config import MAX_IMAGE_BYTES, MIB
from tests.conftest import WEIGHTS, b64, encode, sample_crop
from tests.mutations import PNG_SIGNATURE, SRGB, corpus, mutated_file, mutated_request, with_right_checksums

SEED = 20261122
HANG_SECONDS = 5.0
# What the allocators may keep of such requests beyond what they kept of the first ones; ten thousand leaks of 10 kB are more.
MEMORY_MARGIN_BYTES = 64 * MIB
BOMB_MARGIN_BYTES = 96 * MIB  # for one request: its body, its base64, its file and a copy or two
CLIENTS = 4
BODY_TIMEOUT_SECONDS = 1.5

# One 2× pass of a thousand pixels: what is valid is answered in a tenth of a second.
STRIP = Image.fromarray(np.tile(sample_crop(260, 2, top=40), (1, 2, 1)))
PAYLOAD = b"<script>alert(document.domain)</script>"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def server(outputs: Path) -> Iterator[Server]:
    settings = {"WEIGHTS_DIR": str(WEIGHTS), "BODY_TIMEOUT_SECONDS": str(BODY_TIMEOUT_SECONDS), "LOG_LEVEL": "INFO"}
    with running_server(outputs, **settings) as running:
        yield running


def process_file(server: Server, name: str) -> Path:
    assert server.process
    return Path(f"/proc/{server.process.pid}/{name}")


def resident_bytes(server: Server) -> int:
    return int(process_file(server, "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(server: Server) -> int:
    """Of resident memory, since `forget_peak`."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", process_file(server, "status").read_text())
    return int(kilobytes) * 1024


def forget_peak(server: Server) -> None:
    process_file(server, "clear_refs").write_text("5")


def handles(server: Server) -> int:
    """Open files and sockets, and threads."""
    return sum(len(list(process_file(server, name).iterdir())) for name in ("fd", "task"))


def assert_unharmed(server: Server) -> None:
    assert server.process and server.process.poll() is None
    assert "Traceback" not in "".join(server.log), "".join(server.log)[-5000:]
    assert server.upscale(encode(STRIP))["success"] is True


# bombs


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = STRIP.size) -> bytes:
    """A black PNG of that size, with chunks between its header and its pixels."""
    width, height = size
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compressobj(9)
    pixels = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()
    return PNG_SIGNATURE + b"".join(chunk(*each) for each in (header, *chunks, (b"IDAT", pixels), (b"IEND", b"")))


def zeros(total: int) -> bytes:
    """That many zeros, compressed."""
    deflate = zlib.compressobj(9)
    return b"".join(deflate.compress(bytes(10 * MIB)) for _ in range(total // (10 * MIB))) + deflate.flush()


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(*segments: bytes) -> bytes:
    data = encode(STRIP, "JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def webp(*chunks: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """A WebP in the extended form, with chunks behind its pixels."""
    width, height = STRIP.size
    first = (b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))

    def framed(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    body = b"WEBP" + framed(*first) + encode(STRIP, "WEBP")[12:] + b"".join(framed(*each) for each in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def icc_segments(profile: bytes) -> bytes:
    parts = [profile[start : start + 60_000] for start in range(0, len(profile), 60_000)]
    return b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([i, len(parts)]) + part) for i, part in enumerate(parts, 1))


def looping_exif() -> bytes:
    """A directory of 65,535 entries, each of which points back to it."""
    return b"MM\0*\0\0\0\x08\xff\xff" + struct.pack(">HHII", 0x8769, 4, 1, 8) * 5000


LARGE_PROFILE = struct.pack(">I", 6 * MIB) + SRGB[4:] + bytes(6 * MIB - len(SRGB))
RLE_HEADER = (
    b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, 1024, 1024, 1, 8, 1, 0, 0, 0, 256, 0)
)

# What is sent; and the code of the refusal, or None where the picture in it is valid and is upscaled.
BOMBS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "pixels: 30,000 × 30,000 in a PNG": (
        lambda: with_right_checksums(png(size=(30_000, 300)).replace(b"\0\0\x01\x2c", b"\0\0\x75\x30", 1)),
        "too_many_pixels",
    ),
    "pixels: 7600 × 7600 that unpack": (lambda: png(size=(7600, 7600)), "image_too_large"),
    "pixels: more than a PNG says": (lambda: png((b"IDAT", zeros(300 * MIB))), None),
    "pixels: a WebP's canvas of 16,384²": (lambda: webp().replace(webp()[24:30], b"\xff\x3f\0\xff\x3f\0"), "too_many_pixels"),
    "ICC: 300 MB in a PNG": (lambda: png((b"iCCP", b"x\0\0" + zeros(300 * MIB))), None),
    "ICC: 6 MB in a JPEG": (lambda: jpeg(icc_segments(LARGE_PROFILE)), None),
    "ICC: 6 MB in a WebP": (lambda: webp((b"ICCP", LARGE_PROFILE), flags=0x20), None),
    "EXIF: a loop in a JPEG": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + looping_exif())), None),
    "EXIF: a loop in a PNG": (lambda: png((b"eXIf", looping_exif())), None),
    "EXIF: 6 MB in a WebP": (lambda: webp((b"EXIF", looping_exif() * 100), flags=8), None),
    "text: 300 MB of zTXt": (lambda: png((b"zTXt", b"k\0\0" + zeros(300 * MIB))), None),
    "text: 300 MB of iTXt": (lambda: png((b"iTXt", b"k\0\1\0\0\0" + zeros(300 * MIB))), None),
    "text: 100 × 60 MB": (lambda: png(*[(b"zTXt", b"k\0\0" + zeros(60 * MIB))] * 100), None),
    "chunks: half a million": (lambda: png(*[(b"tEXt", b"")] * 500_000), "broken_image"),
    "segments: a million": (lambda: jpeg(segment(0xFE, b"") * 1_000_000), "broken_image"),
    "chunks: half a million in a WebP": (lambda: webp(*[(b"JUNK", b"")] * 500_000), None),
    "runs: three million in a BMP": (lambda: RLE_HEADER + bytes(1024) + b"\1\0" * 3_000_000 + b"\0\1", "unsupported_format"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(server: Server, bomb: str) -> None:
    make, code = BOMBS[bomb]
    data = make()
    assert len(data) <= MAX_IMAGE_BYTES
    assert_unharmed(server)
    before = resident_bytes(server)
    forget_peak(server)
    start = time.monotonic()
    answer = server.post(data)
    assert time.monotonic() - start < HANG_SECONDS
    assert peak_bytes(server) < before + BOMB_MARGIN_BYTES
    body = answer.json()
    assert body.get("code") == code
    if code is None:
        assert body["original_size"] == {"width": 520, "height": 2}
    assert_unharmed(server)


# polyglots


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil.html", PAYLOAD)
    return file.getvalue()


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


WEBP_OWN = ("loop", "background", "timestamp", "duration")

# formats that are not on the list

SPY = """
import io, sys
from PIL import Image
from imaging.decode import decode_image, read_header
from imaging.encode import encode_image
from core.errors import BadRequest
from tests.mutations import corpus

picture = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
for name in ("jpeg", "png", "webp"):  # Pillow prepares itself when it first writes
    encode_image(decode_image(corpus(picture)[4])[0], name, 90)
plugins = {name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")}
asked, decoders = [], set()
Image.OPEN.update({name: ((lambda *_, n=name: asked.append(n)), (lambda *_, n=name: asked.append(n))) for name in Image.OPEN})
get_decoder = Image._getdecoder
Image._getdecoder = lambda mode, name, *rest: decoders.add(name) or get_decoder(mode, name, *rest)

for data in corpus(picture):
    decode_image(data)
allowed, refused = set(decoders), 0
Image.init()
for format_name in sorted(set(Image.SAVE) - {"PNG", "JPEG", "JPEG2000", "WEBP", "BMP", "MPO", "DIB"} | {"JPEG2000"}):
    for mode in ("RGB", "L", "1", "P"):
        file = io.BytesIO()
        try:
            picture.convert(mode).save(file, format_name)
        except Exception:
            continue
        for disguise in (b"", b"BM", b"RIFF0000WEBP", b"\\xff\\xd8\\xff"):
            for function in (read_header, decode_image):
                try:
                    function(disguise + file.getvalue())
                except BadRequest:
                    refused += 1
                else:
                    raise SystemExit(f"{format_name} was taken")
print(sorted(plugins), sorted(allowed), sorted(decoders - allowed), asked, refused)
"""


def test_formats_outside_the_list_reach_no_decoder() -> None:
    spy = subprocess.run([sys.executable, "-c", SPY], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert spy.returncode == 0, spy.stderr
    # Pillow itself imports GIF's and PPM's when it first writes, and this test's EXIF TIFF's; they are never asked.
    plugins = [f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff", "WebP")]
    output = spy.stdout.strip()
    refused = int(output.rpartition(" ")[2])
    assert output == f"{plugins} ['jpeg', 'raw', 'zip'] [] [] {refused}"
    assert refused > 100


# mutants


def fuzz(count: int, play: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        for done in clients.map(play, range(count)):
            assert done is None


def mutant_images(server: Server, count: int, first: int = 0) -> set[Path]:
    """Post mutated pictures; returns the files that the answers name."""
    files = corpus(STRIP)
    kept: set[Path] = set()
    busy: list[int] = []  # one whose size was mutated may be predicted to be late behind those of the other clients

    def play(number: int) -> None:
        data = mutated_file(files[number % len(files)], random.Random(f"{SEED}-{first + number}"))  # noqa: S311
        start = time.monotonic()
        body = {"image_b64": b64(data), "target_resolution": "2k", "enhance_faces": False}
        answer = client.post("/upscale", json=body, headers={"X-Request-Timeout": "3"})
        seconds = time.monotonic() - start
        assert seconds < HANG_SECONDS, f"image {first + number} took {seconds:.1f} s"
        assert answer.status_code in (200, 400, 503, 504), f"image {first + number}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code == 200:
            kept.add(Path(answer.json()["file_path"]))
        elif answer.status_code == 503:
            assert answer.json()["code"] == "queue_full"
            busy.append(number)

    with httpx.Client(base_url=server.url, timeout=60) as client:
        fuzz(count, play)
    assert len(busy) <= count / 20, "so many tell nothing"
    return kept


def mutant_requests(server: Server, count: int, first: int = 0) -> None:
    fields = {"image_b64": b64(encode(STRIP)), "target_resolution": "2k", "enhance_faces": False}
    address = ("127.0.0.1", httpx.URL(server.url).port or 0)

    def play(number: int) -> None:
        request = mutated_request(fields, encode(STRIP), random.Random(f"{SEED}-{first + number}"))  # noqa: S311
        statuses, ended = converse(address, request)
        assert ended or statuses, f"request {first + number} got no answer in {HANG_SECONDS} s"
        assert not {status for status in statuses if status.startswith(b"5")} - {b"501", b"503", b"504"}, (
            f"request {first + number}: {statuses}"
        )

    fuzz(count, play)


STATUS = re.compile(rb"(?:\A|\n|\}|\")HTTP/1\.[01] (\d{3}) ")
PROBE = b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def converse(address: tuple[str, int], request: bytes) -> tuple[list[bytes], bool]:
    """Send a request and one after it; returns the statuses of all answers, and whether the server hung up."""
    received, deadline = bytearray(), time.monotonic() + HANG_SECONDS
    with socket.create_connection(address, timeout=HANG_SECONDS) as connection:
        try:
            connection.sendall(request + PROBE)
            while (left := deadline - time.monotonic()) > 0:
                connection.settimeout(min(left, 0.5) if STATUS.search(received) else left)
                if not (piece := connection.recv(1 << 20)):
                    return STATUS.findall(received), True
                received += piece
        except TimeoutError:
            pass
        except ConnectionError:  # it has heard enough
            return STATUS.findall(received), True
    return STATUS.findall(received), False


def run_mutants(server: Server, outputs: Path, image_count: int, request_count: int) -> None:
    """A tenth first, so that pools and caches are as full as they will be; then the rest must leave everything as it is."""
    mutant_images(server, image_count // 10)
    mutant_requests(server, request_count // 10)
    settle(server)
    known, before, handles_before = set(outputs.iterdir()), resident_bytes(server), handles(server)
    kept = mutant_images(server, image_count - image_count // 10, image_count // 10)
    assert {path for path in set(outputs.iterdir()) - known if path.suffix != ".json"} <= kept, "no answer names this file"
    mutant_requests(server, request_count - request_count // 10, request_count // 10)
    settle(server)
    growth = resident_bytes(server) - before
    assert growth < MEMORY_MARGIN_BYTES, f"{growth / MIB:.0f} MiB more"
    assert handles(server) <= handles_before + CLIENTS
    assert_whole(outputs)
    assert_unharmed(server)


def assert_whole(folder: Path) -> None:
    """Results, and what is known of them and of jobs; no file is half."""
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        else:
            with Image.open(path) as image:
                image.load()


def settle(server: Server) -> None:
    """Wait until the work of those that hung up has ended."""
    deadline = time.monotonic() + 20
    while (queue := server.health()["queue"])["running"] + queue["waiting"]:
        assert time.monotonic() < deadline, queue
        time.sleep(0.05)


def test_hundreds_of_mutants_do_no_harm(server: Server, outputs: Path) -> None:
    run_mutants(server, outputs, 200, 200)


@pytest.mark.slow
def test_ten_thousand_mutants_do_no_harm(server: Server, outputs: Path) -> None:
    run_mutants(server, outputs, 5000, 5000)
