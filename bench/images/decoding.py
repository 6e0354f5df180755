"""What decoding a picture of 12 megapixels costs, by format: `python -m bench.images.decoding`, on one core or a few.

The lock is the interpreter's: while a decoder holds it, everybody else waits.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import cv2
import numpy as np
import pillow_heif
from PIL import Image

from bench.server import ROOT, SAMPLE
from imaging.decode import decode_image
from imaging.formats import InputLimits, open_image

SIZE = (4000, 3000)
LIMITS = InputLimits(sys.maxsize)


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def _heic(image: Image.Image) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=80, tile_size=512)
    return file.getvalue()


def _deep(image: Image.Image, extension: str) -> bytes:
    return bytes(cv2.imencode(extension, np.asarray(image)[..., ::-1].astype(np.uint16) * 257)[1])


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda image: _saved(image, "JPEG", quality=90),
    "PNG": lambda image: _saved(image, "PNG", compress_level=1),
    "PNG, 16 bits": lambda image: _deep(image, ".png"),
    "WebP": lambda image: _saved(image, "WEBP", quality=90, method=0),
    "AVIF": lambda image: _saved(image, "AVIF", quality=80, speed=10),
    "HEIC, tiles of 512": _heic,
    "TIFF, LZW": lambda image: _saved(image, "TIFF", compression="tiff_lzw"),
    "TIFF, LZW, 16 bits": lambda image: _deep(image, ".tif"),
    "GIF": lambda image: _saved(image.convert("P"), "GIF"),
    "BMP": lambda image: _saved(image, "BMP"),
}


def measure(path: Path) -> str:
    """Milliseconds, MB beyond the file at the peak, milliseconds of lock: of the file, in a process of its own."""
    opened = open_image(path.read_bytes(), LIMITS)
    decode_image(open_image(SAMPLE.read_bytes()))  # what is imported then is not counted
    Path("/proc/self/clear_refs").write_text("5")
    before, pauses, ended = _memory_mb("VmRSS"), [0.0], threading.Event()

    def beat() -> None:
        last = time.perf_counter()
        while not ended.wait(0.001):
            pauses.append((now := time.perf_counter()) - last)
            last = now

    thread = threading.Thread(target=beat)
    thread.start()
    start = time.perf_counter()
    decode_image(opened)
    seconds = time.perf_counter() - start
    ended.set()
    thread.join()
    return f"{seconds * 1000:.0f} | {_memory_mb('VmHWM') - before:.0f} | {max(pauses) * 1000:.0f}"


def _memory_mb(name: str) -> float:
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1024


def main(arguments: list[str]) -> None:
    """Print the table; with the path of a file, its row alone."""
    if arguments:
        sys.stdout.write(measure(Path(arguments[0])))
        return
    photograph = Image.open(SAMPLE).convert("RGB").resize(SIZE)
    path = Path(mkdtemp()) / "file"
    sys.stdout.write("| file | ms | MB at the peak | ms of lock |\n|---|---|---|---|\n")
    for name, write in FILES.items():
        path.write_bytes(write(photograph))
        command = [sys.executable, "-m", "bench.images.decoding", str(path)]
        row = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603
        sys.stdout.write(f"| {name} | {row} |\n")
    rmtree(path.parent)


if __name__ == "__main__":
    main(sys.argv[1:])
