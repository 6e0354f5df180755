"""Show what the service does: `make demo` posts the sample photograph, and keeps the result and a before/after picture.

It uses the running service (`PORT`, else 10005), or starts one for the moment. The network runs each time.
"""

from __future__ import annotations

import base64
import io
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from PIL import Image

from bench.server import ROOT, SAMPLE, Server, running_server
from core.config import Settings

FOLDER = ROOT / "demo"


def main(folder: Path = FOLDER) -> int:
    """Post the sample to 2k, and write `demo/astronaut-2k.jpg` and `demo/before-after.png`."""
    with _service() as server:
        _say(f"Posting {SAMPLE.relative_to(ROOT)} to {server.url}/upscale …")
        response = server.upscale(unseen(SAMPLE))
    folder.mkdir(exist_ok=True)
    result = folder / "astronaut-2k.jpg"
    result.write_bytes(base64.b64decode(response["base64"]))
    comparison = folder / "before-after.png"
    with Image.open(SAMPLE) as before, Image.open(result) as after:
        compare(before, after).save(comparison)
    size = "{width}×{height}".format(**response["upscaled_size"])
    source = "from the cache" if response["cached"] else "newly made"
    _say(f"{size} in {response['processing_time']} s, {source}; faces found: {response['faces_detected']}.")
    for warning in response["warnings"]:
        _say(f"Warning: {warning}")
    _say(f"Look at {result} and {comparison}.")
    return 0


def unseen(path: Path) -> bytes:
    """The picture as PNG, with other lowest bits in a few pixels than ever before: no cache has it, and nobody sees it."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    for x, bit in enumerate(f"{secrets.randbits(64):064b}"):
        red, green, blue = image.getpixel((x, 0))  # type: ignore[misc]
        image.putpixel((x, 0), (red & 254 | int(bit), green, blue))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def compare(before: Image.Image, after: Image.Image) -> Image.Image:
    """The same detail of both, side by side at the size of the result: left enlarged by bicubic interpolation, right ours."""
    enlarged = before.resize(after.size, Image.Resampling.BICUBIC)
    width, height = after.size
    detail = (width * 29 // 100, 0, width * 62 // 100, height * 62 // 100)
    left, right = enlarged.crop(detail), after.crop(detail)
    both = Image.new("RGB", (left.width * 2 + 8, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 8, 0))
    return both


@contextmanager
def _service() -> Iterator[Server]:
    running = Server(f"http://127.0.0.1:{Settings.from_env().port}")
    if _is_ours(running):
        yield running
        return
    _say("No service is running here: starting one for the moment.")
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs)) as started:
        yield started


def _is_ours(server: Server) -> bool:
    try:
        return "max_image_size_mb" in server.health()
    except (OSError, HTTPException, ValueError):  # nothing there, or something else
        return False


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
