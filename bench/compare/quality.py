"""What an engine's arithmetic costs: its pictures against those of untiled `RealESRGANer` in fp32."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence

from bench.compare.baselines import OURS, REALESRGANER, Engine
from bench.images.photographs import Image, largest_difference, photograph, psnr_db
from bench.images.textures import TEXTURES, texture
from bench.results import Sample


def measure_quality(
    missing: int,
    width: int,
    height: int,
    names: Sequence[str],
    engines: Sequence[Engine] = (OURS,),
    reference: Engine = REALESRGANER,
) -> Iterator[Sample]:
    """One sample a picture: the largest error of each engine, and its PSNR."""
    shape = (height, width)
    with warnings.catch_warnings(action="ignore"):  # how long an engine will still work with this torch is not measured
        built = {engine.name: engine.build(shape) for engine in engines}
        true = reference.build(shape)
    for name in names[-missing:]:
        image = picture(width, height, name)
        sample: Sample = {}
        with contextlib.redirect_stdout(io.StringIO()):  # some engines write to it with every tile
            truth = true(image)
            for engine, upscale in built.items():
                sample |= _errors(engine, upscale(image), truth)
        yield sample


def picture(width: int, height: int, name: str) -> Image:
    """The texture or the photograph of that name."""
    return texture(width, height, name) if name in TEXTURES else photograph(width, height, name)


def _errors(engine: str, result: Image | None, truth: Image | None) -> Sample:
    if result is None or truth is None:
        raise ValueError(f"{engine} makes no pictures")
    return {f"{engine}, grey levels": largest_difference(result, truth), f"{engine}, dB": psnr_db(result, truth)}
