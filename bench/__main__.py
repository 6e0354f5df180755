"""Measure what the README says: `python -m bench`, about five minutes on two cores. Prints a Markdown table.

Seconds differ from machine to machine and from run to run, so what is compared is measured in turns, within one run.
"""

from __future__ import annotations

import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.server import SAMPLE, Server, running_server
from config import Settings
from model_utility import SuperResolver, build_rrdbnet, load_state_dict, select_device

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip - after model_utility's shim
from realesrgan import RealESRGANer  # isort: skip

ROUNDS = 5
SQUARE_PX = 257  # the smallest square that 2k takes in one 4× pass: 256 would be doubled once more
X4PLUS = Settings.from_env().weights_dir / "RealESRGAN_x4plus.pth"


def main() -> int:
    """Measure everything, one row after the other."""
    rows = [("figure", "measured"), ("---", "---"), *measure()]
    sys.stdout.write("".join(f"| {name} | {value} |\n" for name, value in rows))
    sys.stdout.write(f"\n{describe_machine()}\n")
    return 0


def describe_machine() -> str:
    """Where and when these figures were measured."""
    device = select_device()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = f"{model[1] if model else platform.machine()}, {torch.get_num_threads()} threads"
    return f"{datetime.now(UTC):%Y-%m-%d}, {device}, {device.precision}; {cpu}; torch {torch.__version__}; `python -m bench`"


def measure() -> list[tuple[str, str]]:
    """All figures as rows of a table."""
    with tempfile.TemporaryDirectory() as outputs:
        rows = measure_starts(Path(outputs))
        with running_server(Path(outputs)) as server:
            return [*rows, *_measure_passes(server), *_measure_memory(server)]


def measure_starts(outputs: Path) -> list[tuple[str, str]]:
    """How long a start takes, and how long /health takes meanwhile."""
    starts = []
    for _ in range(ROUNDS):
        with running_server(outputs) as server:
            starts.append(server)
    answers = sorted(1000 * seconds for start in starts for seconds in start.seconds_of_health)
    p99 = answers[len(answers) * 99 // 100]
    return [
        ("start to the first answer of `/health`", _spread([start.seconds_to_health for start in starts])),
        ("start to ready", _spread([start.seconds_to_ready for start in starts])),
        (
            f"`/health` meanwhile ({len(answers)} times)",
            f"{statistics.median(answers):.1f} ms, p99 {p99:.0f}, max {answers[-1]:.0f}",
        ),
    ]


def _measure_passes(server: Server) -> list[tuple[str, str]]:
    """One 4× pass through HTTP, the same pass alone, and the same by the reference library."""
    pixels = _square(SQUARE_PX)
    image = _encode(pixels)
    resolver = SuperResolver({4: build_rrdbnet(load_state_dict(X4PLUS), 4)}, select_device())
    network = RRDBNet(num_in_ch=3, num_out_ch=3, scale=4, num_feat=64, num_block=23, num_grow_ch=32)
    reference = RealESRGANer(4, str(X4PLUS), model=network, pre_pad=0, device=resolver.device.torch_device)
    device: list[float] = []
    http, ours, theirs = _in_turns(
        lambda: device.append(_upscale_on_device(server, image)),
        lambda: resolver.super_resolve(pixels, 4, lambda _work: None),
        lambda: reference.enhance(pixels),
    )
    size = f"{SQUARE_PX}² → {SQUARE_PX * 4}²"
    outside = [whole - alone for whole, alone in zip(http, device[-ROUNDS:], strict=True)]
    return [
        (f"{size}, JPEG in and out, through HTTP", _spread(http)),
        ("of that, outside the network", _spread(outside)),
        (f"{size}, the network alone", _spread(ours)),
        ("the same by `RealESRGANer`, as shipped", _spread(theirs)),
        ("ratio, round by round", _spread([b / a for a, b in zip(ours, theirs, strict=True)], "×")),
    ]


def _upscale_on_device(server: Server, image: bytes) -> float:
    """Post the image, and return the seconds for which it was on the device, as the server logs them."""
    request_id = server.upscale(image, enhance_faces=False)["request_id"]
    (line,) = [line for line in server.log if f" {request_id} 200 " in line]
    return float(line.split(" s of them on the device")[0].split()[-1])


def _measure_memory(server: Server) -> list[tuple[str, str]]:
    idle = _peak_memory_mib(server)
    server.upscale(_encode(np.asarray(Image.fromarray(_square(540)).resize((960, 540)))), target_resolution="4k")
    return [
        ("peak memory of the server, so far", f"{idle} MiB"),
        ("after 960×540 → 3840×2160", f"{_peak_memory_mib(server)} MiB"),
    ]


def _in_turns(*functions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function, called in turns after a warm-up."""
    seconds: list[list[float]] = [[] for _ in functions]
    for counted in [False] + [True] * ROUNDS:
        for function, measured in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            if counted:
                measured.append(time.perf_counter() - start)
    return seconds


def _spread(values: list[float], unit: str = "s") -> str:
    return f"{statistics.median(values):.2f} {unit} ({min(values):.2f}–{max(values):.2f})"


def _square(side_px: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(SAMPLE) as image:
        return np.array(image.convert("RGB").resize((side_px, side_px)))


def _encode(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    with tempfile.SpooledTemporaryFile() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        file.seek(0)
        return file.read()


def _peak_memory_mib(server: Server) -> int:
    if server.process is None:
        raise ValueError("only a server that was started here can be looked into")
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    sys.exit(main())
