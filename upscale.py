"""The pipeline: plan → detect → passes → restore. Pictures and dataclasses in and out; no HTTP.

`python upscale.py in.jpg -o out.png --target 4k` runs it on files: see `cli`.
"""

from __future__ import annotations

import logging
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.config import TARGET_PX, Settings
from core.errors import ImageTooLarge, ModelUnavailable
from core.stage_timer import StageTimer
from imaging.picture import Picture
from weights.manifest import WeightFile, read_manifest, sha256_of

if TYPE_CHECKING:  # both import torch, which takes seconds: the server answers /health before that
    from basicsr.archs.rrdbnet_arch import RRDBNet

    from models.faces import Face, FaceDetector, FaceRestorer
    from models.super_resolution import Advance, SuperResolver

logger = logging.getLogger(__name__)

MAX_PASSES = 3
_NETWORKS = (  # model, scale, name in /health, file
    ("photo", 4, "upscale_x4", "RealESRGAN_x4plus.pth"),
    ("photo", 2, "upscale_x2", "RealESRGAN_x2plus.pth"),
    ("anime", 4, "upscale_x4_anime", "RealESRGAN_x4plus_anime_6B.pth"),
)

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, within the picture."""


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def long_side(self) -> int:
        return max(self.width, self.height)

    def __mul__(self, factor: int) -> Size:
        return Size(self.width * factor, self.height * factor)

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass(frozen=True)
class Plan:
    """What will be done to an image of that size. Decided from the header alone, before anything is queued."""

    original: Size
    target: str  # "2k", "4k" or "8k"
    passes: tuple[int, ...]  # 2s and 4s, in order
    output: Size
    warnings: tuple[str, ...] = ()
    model: str = "photo"

    @property
    def total_scale(self) -> float:
        """Ratio of the long sides: the product of the passes, unless `fit: exact` shrinks their result."""
        return self.output.long_side / self.original.long_side


def plan_upscale(original: Size, target: str, fit: str = "passes", model: str = "photo") -> Plan:
    """Choose the passes.

    Args:
        original: the size after EXIF rotation.
        target: "2k", "4k" or "8k".
        fit: "passes" takes the largest whole passes that stay within the target; "exact" goes on until the long side is at
            least the target, and shrinks the result to it.
        model: "photo" or "anime".

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
    passes: list[int] = []
    long_side = original.long_side
    while len(passes) < MAX_PASSES and long_side * 2 <= target_px:
        passes.append(4 if long_side * 4 <= target_px else 2)
        long_side *= passes[-1]
    return Plan(original, target, tuple(passes), _after(original, passes), model=model)


def max_input_px(target: str, fit: str = "passes") -> int:
    """The longest side that the target accepts, in pixels."""
    return TARGET_PX[target] - 1 if fit == "exact" else TARGET_PX[target] // 2


def _plan_exact(original: Size, target: str, model: str) -> Plan:
    target_px = TARGET_PX[target]
    passes: list[int] = []
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


def _after(size: Size, passes: list[int]) -> Size:
    for scale in passes:
        size *= scale
    return size


@dataclass(frozen=True)
class ModelStatus:
    """One network: the file that it was loaded from, or why it was not."""

    file: str | None = None
    sha256: str = ""
    reason: str = ""  # for clients
    remedy: str = ""  # for the operator

    @property
    def loaded(self) -> bool:
        return self.file is not None


@dataclass(frozen=True, eq=False)
class Upscaled:
    """What the pipeline gives for one picture."""

    picture: Picture
    faces: tuple[Box, ...]  # found on the input
    faces_enhanced: bool
    warnings: tuple[str, ...]
    seconds: dict[str, float]  # by stage: detect, pass_1, pass_2, …, faces
    is_usual: bool = True  # False: memory ran out, and another time the same may give other bytes


@dataclass
class Upscaler:
    """The loaded networks as one pipeline. Only the device's own thread may call `upscale`."""

    resolvers: dict[str, SuperResolver]  # by model
    detector: FaceDetector | None = None
    restorer: FaceRestorer | None = None
    models: dict[str, ModelStatus] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "fp32"
    allocated_bytes: Callable[[], int | None] = lambda: None  # of the device's own memory, where it has one

    @property
    def identity(self) -> str:
        """Of all that the same picture's result depends on here: the networks' files by their hashes, device, precision."""
        weights = {model: status.sha256 for model, status in self.models.items()}
        return f"{weights}, {self.device}, {self.precision}"

    def work(self, plan: Plan, has_alpha: bool, enhance_faces: bool) -> float:
        """FLOPs of all passes and the search for faces, as `advance` will add them up; faces are unknown until then.

        Raises:
            ModelUnavailable: the plan's network is not loaded.
        """
        resolver = self._resolver(plan.model)
        size, total = plan.original, 0.0
        for scale in plan.passes:
            total += resolver.flops(size.height, size.width, scale)
            size *= scale
        total *= 2 if has_alpha else 1
        if enhance_faces and self.detector:
            total += self.detector.flops(plan.original.height, plan.original.width)
        return total

    def memory_bytes(self, plan: Plan) -> int:
        """What the largest pass takes at its peak, beside the networks.

        Raises:
            ModelUnavailable: the plan's network is not loaded.
        """
        resolver = self._resolver(plan.model)
        size, peak = plan.original, 0
        for scale in plan.passes:
            peak = max(peak, resolver.memory_bytes(size.height, size.width, scale))
            size *= scale
        return peak

    def upscale(
        self,
        picture: Picture,
        plan: Plan,
        enhance_faces: bool,
        advance: Advance,
        face_strength: float = 1.0,
        expect: Advance = lambda _work: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Upscaled:
        """Run the plan.

        Args:
            picture: of the plan's original size.
            plan: of `plan_upscale`.
            enhance_faces: find faces, restore them once in the first pass, and paste them back.
            advance: called between steps with the FLOPs just done; what it raises ends the job.
            face_strength: 0–1, the share of a restored face in what is pasted; with 0 faces are found and not restored.
            expect: called with the FLOPs of the faces, once they are found.
            clock: in seconds, for the stages.

        Raises:
            ModelUnavailable: the plan's network is not loaded.
        """
        resolver = self._resolver(plan.model)
        watch, shortages = StageTimer(clock), resolver.shortages
        with watch.stage("detect"):
            faces, warnings = self._find_faces(picture, advance) if enhance_faces else ([], [])
        if faces and face_strength and self.restorer:
            expect(self.restorer.flops(len(faces)))
        enlarged, restored = picture, False
        for number, scale in enumerate(plan.passes, start=1):
            with watch.stage(f"pass_{number}"):
                enlarged = _enlarge(resolver, enlarged, scale, advance)
            if faces and face_strength and self.restorer and not restored:
                with watch.stage("faces"):
                    pasted = _paste_faces(self.restorer, enlarged, picture, faces, face_strength, advance)
                enlarged = replace(enlarged, pixels=pasted)
                restored = True
        if restored and self.restorer and not self.restorer.has_outline:
            warnings.append(f"Faces were pasted with a square soft mask: {self.models['face_parsing'].reason}.")
        is_usual = resolver.shortages == shortages
        if not is_usual:
            warnings.append("Memory ran out: this was made in smaller tiles than usual, and may differ a little.")
        boxes = tuple(_clipped(face.box, plan.original) for face in faces)
        picture = _shrink(enlarged, plan.output)
        return Upscaled(picture, boxes, restored, (*plan.warnings, *warnings), watch.seconds, is_usual)

    def warm_up(self, side_px: int, advance: Advance) -> None:
        """One pass, so that the first request is not the slow one and the device's rate is known."""
        self.resolvers["photo"].super_resolve(np.zeros((side_px, side_px, 3), np.uint8), 4, advance)

    def _resolver(self, model: str) -> SuperResolver:
        if model not in self.resolvers:
            raise ModelUnavailable(
                f"This server has no network for the model {model!r}: {self.models[f'upscale_x4_{model}'].reason}. "
                f"Ask for {' or '.join(self.resolvers)}.",
                field="model",
                allowed=list(self.resolvers),
            )
        return self.resolvers[model]

    def _find_faces(self, picture: Picture, advance: Advance) -> tuple[list[Face], list[str]]:
        warnings = [
            f"Faces were not {done}: {self.models[model].reason}."
            for network, model, done in (
                (self.detector, "face_detection", "searched for"),
                (self.restorer, "face_restoration", "restored"),
            )
            if network is None
        ]
        if self.detector is None:
            return [], warnings
        found = self.detector.detect(_as_rgb(picture.pixels))
        advance(self.detector.flops(picture.height, picture.width))
        return found, warnings


def _enlarge(resolver: SuperResolver, picture: Picture, scale: int, advance: Advance) -> Picture:
    pixels = resolver.super_resolve(picture.pixels, scale, advance)
    alpha = resolver.super_resolve(picture.alpha, scale, advance) if picture.alpha is not None else None
    return replace(picture, pixels=pixels, alpha=alpha)


def _paste_faces(
    restorer: FaceRestorer, enlarged: Picture, picture: Picture, faces: list[Face], strength: float, advance: Advance
) -> NDArray[np.uint8]:
    pasted = restorer.restore_into(_as_rgb(enlarged.pixels), _as_rgb(picture.pixels), faces, strength, advance)
    return pasted if enlarged.pixels.ndim == 3 else np.asarray(Image.fromarray(pasted).convert("L"))


def _clipped(box: tuple[float, float, float, float], size: Size) -> Box:
    left, top, right, bottom = (
        min(max(round(at), 0), limit) for at, limit in zip(box, (size.width, size.height) * 2, strict=True)
    )
    return left, top, right, bottom


def _as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def _shrink(picture: Picture, size: Size) -> Picture:
    """One Lanczos downscale, antialiased, where `fit: exact` asks for it."""
    if Size(picture.width, picture.height) == size:
        return picture

    def shrink(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(plane).resize((size.width, size.height), Image.Resampling.LANCZOS))

    return replace(picture, pixels=shrink(picture.pixels), alpha=None if picture.alpha is None else shrink(picture.alpha))


class WeightsError(RuntimeError):
    """The service cannot do its work with the weights that are there; the message says what to do."""


def load_upscaler(settings: Settings) -> Upscaler:
    """Load every network whose weights are there and genuine. Imports torch, so it takes seconds.

    Raises:
        WeightsError: a required file is missing or not what the manifest says.
        ConfigError: `DEVICE` is not there.
    """
    from models.faces import FaceDetector, FaceRestorer
    from models.super_resolution import SuperResolver, build_rrdbnet, select_device

    device = select_device(settings.device, settings.precision, settings.torch_threads)
    if device.warning:
        logger.warning("%s", device.warning)
    weights = _Weights(settings.weights_dir)
    networks: dict[str, dict[int, RRDBNet]] = {}
    for model, scale, name, file in _NETWORKS:
        if (state_dict := weights.load(name, file)) is not None:
            networks.setdefault(model, {})[scale] = build_rrdbnet(state_dict, scale)
    resolvers = {model: SuperResolver(by_scale, device) for model, by_scale in networks.items()}
    detector = None
    for file, backbone in (("detection_Resnet50_Final.pth", "resnet50"), ("detection_mobilenet0.25_Final.pth", "mobile0.25")):
        if detector is None and (state_dict := weights.load("face_detection", file)) is not None:
            detector = FaceDetector.load(state_dict, backbone, device)
    restorer = None
    parser = weights.load("face_parsing", "parsing_parsenet.pth")
    if (gfpgan := weights.load("face_restoration", "GFPGANv1.4.pth")) is not None:
        restorer = FaceRestorer.load(gfpgan, parser, device)
    return Upscaler(resolvers, detector, restorer, weights.status, str(device), device.precision, device.allocated_bytes)


class _Weights:
    """Reads files of weights that are there and genuine, and remembers for the others why not."""

    def __init__(self, folder: Path) -> None:
        self.status: dict[str, ModelStatus] = {}
        self._folder = folder
        self._manifest = read_manifest()

    def load(self, model: str, file: str) -> dict[str, Any] | None:
        from models.super_resolution import load_state_dict

        weight_file, path = self._manifest[file], self._folder / file
        try:
            sha256 = sha256_of(path) if path.is_file() else ""
            if sha256 not in weight_file.genuine_sha256:
                raise WeightsError("is missing" if not path.exists() else "is not the file of the manifest (wrong SHA-256)")
            state_dict = load_state_dict(path)
        except (WeightsError, OSError, RuntimeError, pickle.UnpicklingError) as exc:
            self.status[model] = status = ModelStatus(reason=f"{file} {exc}", remedy=_remedy(path, weight_file))
            if weight_file.required:
                raise WeightsError(f"{status.reason}. {status.remedy}") from exc
            return None
        self.status[model] = ModelStatus(file, sha256)
        return state_dict


def _remedy(path: Path, weight_file: WeightFile) -> str:
    return (
        f"Without it, {weight_file.without}. "
        f"To get it, run `python -m weights.fetch`, or put {weight_file.url} into {path.parent.resolve()}."
    )


if __name__ == "__main__":
    from cli import main

    sys.exit(main())
