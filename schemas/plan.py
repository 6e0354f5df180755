"""The plan of an upscale: which passes an image of that size takes, and how large the result is. Arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from core.config import MAX_SCALE, TARGET_PX, Fit, ModelName, TargetResolution
from core.errors import ConflictingFields, ImageTooLarge
from schemas.params import UpscaleParams, parse_params

MAX_PASSES = 3
USUAL_SCALES = (2.0, 4.0)
MAX_OUTPUT_PX = max(TARGET_PX.values())  # of a long side


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def long_side(self) -> int:
        return max(self.width, self.height)

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def __mul__(self, factor: int) -> Size:
        return Size(self.width * factor, self.height * factor)

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass(frozen=True)
class Plan:
    """What will be done to an image of that size. Decided from the header alone, before anything is queued."""

    original: Size
    target: TargetResolution | None  # None: a factor was asked for
    passes: tuple[Literal[2, 4], ...]  # in order
    output: Size
    warnings: tuple[str, ...] = ()
    model: ModelName = "photo"
    denoise: float = 1.0  # of photo_fast

    @property
    def total_scale(self) -> float:
        """Ratio of the long sides: the product of the passes, unless their result is shrunk."""
        return self.output.long_side / self.original.long_side


def plan_for(original: Size, params: UpscaleParams) -> Plan:
    """The plan for what a request asks for.

    Raises:
        ConflictingFields: the model has no such strengths of denoising.
        ImageTooLarge: as `plan_upscale` and `plan_scale`.
    """
    if params.denoise != 1 and params.model != "photo_fast":
        raise ConflictingFields(
            f"denoise is for the model photo_fast, and {params.model} takes none: leave it out, or ask for photo_fast.",
            field="denoise",
        )
    if params.scale is not None:
        plan = plan_scale(original, params.scale, params.model)
    else:
        plan = plan_upscale(original, params.target_resolution, params.fit, params.model)
    return replace(plan, denoise=params.denoise)


def plan_upscale(original: Size, target: TargetResolution, fit: Fit = "passes", model: ModelName = "photo") -> Plan:
    """Choose the passes.

    Args:
        original: the size after EXIF rotation.
        target: "2k", "4k" or "8k".
        fit: "passes" takes the largest whole passes that stay within the target; "exact" goes on until the long side is at
            least the target, and shrinks the result to it.
        model: that of the request.

    Raises:
        ImageTooLarge: no pass fits below this target.
    """
    target_px = TARGET_PX[target]
    limit_px = max_input_px(target, fit)
    if original.long_side > limit_px:
        raise ImageTooLarge(
            f"The image is {original}: its long side of {original.long_side} px is over the limit of {limit_px} px for "
            f"{target} ({target_px} px). Send a smaller image or ask for a larger target_resolution.",
            width=original.width,
            height=original.height,
            max_input_px=limit_px,
        )
    if fit == "exact":
        return _plan_exact(original, target, model)
    passes: list[Literal[2, 4]] = []
    long_side = original.long_side
    while len(passes) < MAX_PASSES and long_side * 2 <= target_px:
        passes.append(4 if long_side * 4 <= target_px else 2)
        long_side *= passes[-1]
    return Plan(original, target, tuple(passes), _after(original, passes), model=model)


def plan_scale(original: Size, scale: float, model: ModelName = "photo") -> Plan:
    """Choose the fewest passes that reach a factor; their result is shrunk to it.

    Args:
        original: the size after EXIF rotation.
        scale: above 1, up to MAX_SCALE: the factor as it is written in decimal, so that 1.1 times 10 is 11. Halves of a pixel
            are rounded to even numbers.
        model: that of the request.

    Raises:
        ImageTooLarge: the result would be over MAX_OUTPUT_PX.
    """
    factor = Fraction(str(scale))
    output = Size(max(round(original.width * factor), 1), max(round(original.height * factor), 1))
    if output.long_side > MAX_OUTPUT_PX:
        largest = max_scale(original.long_side)
        advice = f"the largest scale that fits is {largest:g}" if largest > 1 else "no scale above 1 fits"
        raise ImageTooLarge(
            f"The image is {original}: scale {scale:g} makes its long side {output.long_side} px, over the limit of "
            f"{MAX_OUTPUT_PX} px. For this image, {advice}.",
            width=original.width,
            height=original.height,
            max_scale=largest,
        )
    passes: list[Literal[2, 4]] = []
    while (left := factor / math.prod(passes)) > 1:
        passes.append(4 if left > 2 else 2)
    return Plan(original, None, tuple(passes), output, model=model)


def size_choices(original: Size) -> Iterator[tuple[dict[str, Any], Plan | ImageTooLarge]]:
    """The sizes that people choose from, each target in both fits, then 2× and 4×: what to ask for, null where nothing, and
    the plan, or why there is none.
    """
    choices = [(target, fit, None) for fit in get_args(Fit) for target in TARGET_PX]
    for values in (*choices, *((None, None, scale) for scale in USUAL_SCALES)):
        choice = dict(zip(("target_resolution", "fit", "scale"), values, strict=True))
        asked = {name: value for name, value in choice.items() if value is not None}
        try:
            yield choice, plan_for(original, parse_params(asked))
        except ImageTooLarge as exc:
            yield choice, exc


def max_scale(long_side: int) -> float:
    """The largest scale of at most four decimal places that stays within MAX_OUTPUT_PX; 1 where none above it does."""
    return min(max(MAX_OUTPUT_PX * 10_000 // long_side / 10_000, 1.0), MAX_SCALE)


def max_input_px(target: TargetResolution, fit: Fit = "passes") -> int:
    """The longest side that the target accepts, in pixels."""
    return TARGET_PX[target] - 1 if fit == "exact" else TARGET_PX[target] // 2


def _plan_exact(original: Size, target: TargetResolution, model: ModelName) -> Plan:
    target_px = TARGET_PX[target]
    passes: list[Literal[2, 4]] = []
    long_side = original.long_side
    while len(passes) < MAX_PASSES and long_side < target_px:
        passes.append(4 if target_px > long_side * 2 else 2)
        long_side *= passes[-1]
    if long_side < target_px:
        warning = (
            f"{MAX_PASSES} passes take {original} to {long_side} px on the long side, short of {target} ({target_px} px)."
        )
        return Plan(original, target, tuple(passes), _after(original, passes), (warning,), model)
    scale = target_px / original.long_side
    output = Size(max(round(original.width * scale), 1), max(round(original.height * scale), 1))
    return Plan(original, target, tuple(passes), output, model=model)


def _after(size: Size, passes: Iterable[int]) -> Size:
    for scale in passes:
        size *= scale
    return size
