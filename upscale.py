"""The pipeline: detect faces → passes of 2× and 4× → restore faces in the first. Pictures in and out; no HTTP.

Which passes an image takes, `schemas.plan.plan_upscale` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.errors import DeviceLost
from core.progress import Progress
from core.stage_timer import StageTimer
from imaging.picture import Picture, as_gray, as_rgb, resized
from model_utility import Models
from schemas.params import UpscaleParams
from schemas.plan import Plan, Size

if TYPE_CHECKING:  # both import torch, which takes seconds: the server answers /health before that
    from models.face_detection import Face
    from models.face_restoration import FaceRestorer
    from models.super_resolution import SuperResolver

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, within the picture."""


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """What the pipeline gives for one picture."""

    picture: Picture
    faces: tuple[Box, ...]  # found on the input
    faces_enhanced: bool
    warnings: tuple[str, ...]
    seconds: dict[str, float]  # by stage: detect, pass_1, pass_2, …, faces
    is_deterministic: bool = True  # False: memory ran out, and another time the same may give other bytes


class Upscaler:
    """The pipeline over the loaded models. Only the worker that owns the device may call what runs a network."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def run_all_once(self) -> None:
        """Do what would make the first pass of any network slow.

        Raises:
            DeviceLost: this process can use its device no more.
        """
        with self._faults_named():
            self.models.run_all_once()

    def measure_others(self, flops_per_second: float) -> None:
        """Learn what faces and the fast models cost, where a pass does so many FLOPs a second.

        Raises:
            DeviceLost: this process can use its device no more.
        """
        with self._faults_named():
            self.models.measure_others(flops_per_second)

    def warm_up(self, side_px: int, progress: Progress) -> None:
        """One pass over a square, so that the device's rate is known.

        Raises:
            DeviceLost: this process can use its device no more.
        """
        with self._faults_named():
            self.models.warm_up(side_px, progress)

    def work(self, plan: Plan, has_alpha: bool, enhance_faces: bool) -> float:
        """FLOPs of all passes and the search for faces, as `Progress` will add them up; faces are unknown until then.

        Raises:
            ModelUnavailable: the plan's model is not loaded.
        """
        resolver, detector = self.models.super_resolver(plan.model, plan.denoise), self.models.face_detector
        size, total = plan.original, 0.0
        for scale in plan.passes:
            total += resolver.flops(size.height, size.width, scale)
            size *= scale
        total *= 2 if has_alpha else 1
        if enhance_faces and detector:
            total += detector.flops(plan.original.height, plan.original.width)
        return total

    def memory_bytes(self, plan: Plan) -> int:
        """What the largest pass takes at its peak, beside the models.

        Raises:
            ModelUnavailable: the plan's model is not loaded.
        """
        resolver = self.models.super_resolver(plan.model, plan.denoise)
        size, peak = plan.original, 0
        for scale in plan.passes:
            peak = max(peak, resolver.memory_bytes(size.height, size.width, scale))
            size *= scale
        return peak

    def run(self, picture: Picture, plan: Plan, params: UpscaleParams, progress: Progress) -> PipelineOutput:
        """Run the plan.

        Args:
            picture: of the plan's original size.
            plan: of `plan_upscale`.
            params: `enhance_faces` finds faces, restores them once in the first pass, and pastes them back with
                `face_strength`; with a strength of 0, faces are found and not restored.
            progress: told of each step; what it raises ends the task.

        Raises:
            ModelUnavailable: the plan's model is not loaded.
            DeviceLost: this process can use its device no more.
        """
        with self._faults_named():
            return self._run(picture, plan, params, progress)

    def _run(self, picture: Picture, plan: Plan, params: UpscaleParams, progress: Progress) -> PipelineOutput:
        resolver, restorer = self.models.super_resolver(plan.model, plan.denoise), self.models.face_restorer
        timer, shortages = StageTimer(progress.clock), resolver.shortages
        with timer.stage("detect"):
            faces, warnings = self._find_faces(picture, progress) if params.enhance_faces else ([], [])
        if not params.face_strength or not faces:
            restorer = None
        if restorer:
            progress.add_work(restorer.flops(len(faces)))
        enlarged = picture
        for number, scale in enumerate(plan.passes, start=1):
            with timer.stage(f"pass_{number}"):
                enlarged = _enlarge(resolver, enlarged, scale, progress)
            if restorer and number == 1:
                with timer.stage("faces"):
                    pasted = _paste_faces(restorer, enlarged, picture, faces, params.face_strength, progress)
                enlarged = replace(enlarged, pixels=pasted)
        if restorer and not restorer.has_outline:
            warnings.append(f"Faces were pasted with a square soft mask: {self.models.status['face_parsing'].reason}.")
        is_deterministic = resolver.shortages == shortages
        if not is_deterministic:
            warnings.append("Memory ran out: this was made in smaller tiles than usual, and may differ a little.")
        boxes = tuple(_clipped(face.box, plan.original) for face in faces)
        result = resized(enlarged, plan.output.width, plan.output.height)
        return PipelineOutput(
            result, boxes, restorer is not None, (*plan.warnings, *warnings), timer.seconds, is_deterministic
        )

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        """What the models raise of a device that is lost becomes DeviceLost, and of one without memory a MemoryError."""
        try:
            yield
        except Exception as exc:
            if reason := self.models.device_lost_reason(exc):
                raise DeviceLost(reason) from exc
            if self.models.is_out_of_memory(exc):
                raise MemoryError(str(exc).partition("\n")[0]) from exc
            raise

    def _find_faces(self, picture: Picture, progress: Progress) -> tuple[list[Face], list[str]]:
        detector = self.models.face_detector
        warnings = [
            f"Faces were not {done}: {self.models.status[name].reason}."
            for loaded, name, done in (
                (detector, "face_detection", "searched for"),
                (self.models.face_restorer, "face_restoration", "restored"),
            )
            if loaded is None
        ]
        if detector is None:
            return [], warnings
        found = detector.detect(as_rgb(picture.pixels))
        progress.advance(detector.flops(picture.height, picture.width))
        return found, warnings


def _enlarge(resolver: SuperResolver, picture: Picture, scale: int, progress: Progress) -> Picture:
    pixels = resolver.super_resolve(picture.pixels, scale, progress)
    alpha = resolver.super_resolve(picture.alpha, scale, progress) if picture.alpha is not None else None
    return replace(picture, pixels=pixels, alpha=alpha)


def _paste_faces(
    restorer: FaceRestorer, enlarged: Picture, picture: Picture, faces: list[Face], strength: float, progress: Progress
) -> NDArray[np.uint8]:
    pasted = restorer.restore_into(as_rgb(enlarged.pixels), as_rgb(picture.pixels), faces, strength, progress)
    return pasted if enlarged.pixels.ndim == 3 else as_gray(pasted)


def _clipped(box: tuple[float, float, float, float], size: Size) -> Box:
    left, top, right, bottom = (
        min(max(round(at), 0), limit) for at, limit in zip(box, (size.width, size.height) * 2, strict=True)
    )
    return left, top, right, bottom


if __name__ == "__main__":
    raise SystemExit("The command line is cli.py: python cli.py --help")
