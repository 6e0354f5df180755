"""The figures of one pass of x4plus: against the peers, against the machine, and over the size of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.compare.baselines import MATRIX_PRODUCT, OURS, Peer
from bench.compare.worker import Worker, workers
from bench.images.photographs import Image, psnr_db
from bench.report.arithmetic import in_turns
from bench.results import Sample

MIN_PSNR_DB = 40.0  # below it, a peer computes something else than we do


def measure_passes(rounds: int, image: Image, peers: Sequence[Peer], yardstick: Peer = MATRIX_PRODUCT) -> Iterator[Sample]:
    """Seconds of each peer and of the yardstick for one photograph; the first peer's picture is what the others must give."""
    with workers([(peer, image) for peer in (*peers, yardstick)]) as ready:
        agreement = _agreement(ready)
        for seconds in in_turns({name: worker.seconds for name, worker in ready.items()}, rounds):
            yield {**{f"{name}, s": value for name, value in seconds.items()}, **agreement}


def measure_sizes(rounds: int, images: Sequence[Image], peer: Peer = OURS) -> Iterator[Sample]:
    """Seconds of one peer, ours, for squares of several sides."""
    with workers([(Peer(f"{len(image)}", peer.build), image) for image in images]) as ready:
        yield from in_turns({f"{name}², s": worker.seconds for name, worker in ready.items()}, rounds)


def _agreement(ready: Mapping[str, Worker]) -> Sample:
    """PSNR of each peer's picture against the first one's.

    Raises:
        ValueError: one of them makes another picture, so that its seconds mean nothing.
    """
    pictures = {name: worker.picture for name, worker in ready.items() if worker.picture is not None}
    first = next(iter(pictures.values()))
    found = {name: psnr_db(picture, first) for name, picture in pictures.items()}
    if strangers := [f"{name} ({psnr:.1f} dB)" for name, psnr in found.items() if psnr < MIN_PSNR_DB]:
        raise ValueError(f"these make another picture than {next(iter(pictures))}: {', '.join(strangers)}")
    return {f"{name}, dB": psnr for name, psnr in found.items()}
