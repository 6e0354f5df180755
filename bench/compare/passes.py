"""One pass of x4plus: against the baselines and the machine, over the size of the picture, and beside other work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from bench.compare.baselines import OURS, REALESRGANER, Engine
from bench.compare.runner import in_turns
from bench.compare.worker import Worker, workers
from bench.images.photographs import Image, psnr_db
from bench.results import Sample

MIN_PSNR_DB = 40.0  # below it, an engine computes something else than we do
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # until it is killed, or its parent ends


def measure_passes(rounds: int, image: Image, engines: Sequence[Engine], yardstick: Engine) -> Iterator[Sample]:
    """Seconds of each engine and of the yardstick for one photograph; the others must give the first engine's picture."""
    agreement: Sample = {}
    with workers([(engine, image) for engine in (*engines, yardstick)]) as ready:
        for seconds in in_turns({name: worker.seconds for name, worker in ready.items()}, rounds):
            agreement = agreement or _agreement(ready)
            yield {**{f"{name}, s": value for name, value in seconds.items()}, **agreement}


def measure_sizes(rounds: int, images: Sequence[Image], engine: Engine = OURS) -> Iterator[Sample]:
    """Seconds of one engine, ours, for squares of several sides."""
    with workers([(Engine(f"{len(image)}", engine.build), image) for image in images]) as ready:
        yield from in_turns({f"{name}², s": worker.seconds for name, worker in ready.items()}, rounds)


def measure_busy(
    rounds: int, image: Image, busy_counts: Sequence[int], engines: Sequence[Engine] = (REALESRGANER, OURS)
) -> Iterator[Sample]:
    """Seconds of each engine beside so many processes that never wait, each time in turns."""
    with workers([(engine, image) for engine in engines]) as ready:
        for _ in range(rounds):
            sample: Sample = {}
            for count in busy_counts:
                with _busy_processes(count):
                    sample |= {f"{name} beside {count}, s": worker.seconds() for name, worker in ready.items()}
            yield sample


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]  # noqa: S603
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _agreement(ready: Mapping[str, Worker]) -> Sample:
    """PSNR of each engine's picture against the first one's.

    Raises:
        ValueError: one of them makes another picture, so that its seconds mean nothing.
    """
    pictures = {name: worker.picture for name, worker in ready.items() if worker.picture is not None}
    first = next(iter(pictures.values()))
    found = {name: psnr_db(picture, first) for name, picture in pictures.items()}
    if different := [f"{name} ({psnr:.1f} dB)" for name, psnr in found.items() if psnr < MIN_PSNR_DB]:
        raise ValueError(f"these make another picture than {next(iter(pictures))}: {', '.join(different)}")
    return {f"{name}, dB": psnr for name, psnr in found.items()}
