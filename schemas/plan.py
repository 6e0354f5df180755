"""The plan of an upscale: which passes an image of that size takes, and how large the result is. Arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from core.config import TARGET_PX, Fit, ModelName, TargetResolution
from core.errors import ConflictingFields, ImageTooLarge

MAX_PASSES = 3


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
    target: TargetResolution
    passes: tuple[Literal[2, 4], ...]  # in order
    output: Size
    warnings: tuple[str, ...] = ()
    model: ModelName = "photo"
    denoise: float = 1.0  # of photo_fast

    @property
    def total_scale(self) -> float:
        """Ratio of the long sides: the product of the passes, unless `fit: exact` shrinks their result."""
        return self.output.long_side / self.original.long_side


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


def with_denoise(plan: Plan, denoise: float) -> Plan:
    """The same plan, at that strength of denoising.

    Raises:
        ConflictingFields: the plan's model has no such strengths.
    """
    if denoise != 1 and plan.model != "photo_fast":
        raise ConflictingFields(
            f"denoise is for the model photo_fast, and {plan.model} takes none: leave it out, or ask for photo_fast.",
            field="denoise",
        )
    return replace(plan, denoise=denoise)


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
