"""Load the models whose weights are there and genuine, say of each what became of it, and warm them up.

Torch is imported when `load_models` is called and not before: it takes seconds, in which the server answers /health.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.config import Settings, either
from core.errors import ModelUnavailable
from core.progress import Progress
from weights.manifest import WeightFile, read_manifest, sha256_of, too_little_memory

if TYPE_CHECKING:
    from models.device import Device
    from models.face_detection import FaceDetector
    from models.face_restoration import FaceRestorer
    from models.fast import FastModel
    from models.super_resolution import SuperResolver

logger = logging.getLogger(__name__)

_SUPER_RESOLUTION = (  # model, scale, name in /health, file
    ("photo", 4, "upscale_x4", "RealESRGAN_x4plus.pth"),
    ("photo", 2, "upscale_x2", "RealESRGAN_x2plus.pth"),
    ("anime", 4, "upscale_x4_anime", "RealESRGAN_x4plus_anime_6B.pth"),
)
_FAST = (  # model, and for its network and its twin of weak denoising: name in /health, file
    (
        "photo_fast",
        ("upscale_x4_photo_fast", "realesr-general-x4v3.pth"),
        ("upscale_x4_photo_fast_wdn", "realesr-general-wdn-x4v3.pth"),
    ),
    ("anime_fast", ("upscale_x4_anime_fast", "realesr-animevideov3.pth"), None),
)
_FACE_DETECTION = (  # file, backbone: the first that is there
    ("detection_Resnet50_Final.pth", "resnet50"),
    ("detection_mobilenet0.25_Final.pth", "mobile0.25"),
)


class WeightsError(RuntimeError):
    """The service cannot do its work with the weights that are there; the message says what to do."""


@dataclass(frozen=True)
class ModelStatus:
    """One model: the file that it was loaded from, or why it was not."""

    file: str | None = None
    sha256: str = ""
    reason: str = ""  # for clients
    fix: str = ""  # for the operator

    @property
    def loaded(self) -> bool:
        return self.file is not None


@dataclass(frozen=True)
class Capabilities:
    """What a worker can do, and on what; of a worker elsewhere, what is known of it here."""

    identity: str  # of all that the same picture's result depends on there
    device: str  # for people, like the next
    engine: str
    precision: str
    models: tuple[str, ...]  # that a request can name
    mixable: tuple[str, ...] = ()  # those of them that have a weaker denoising
    status: Mapping[str, ModelStatus] = field(default_factory=dict)  # by name in /health

    def check(self, model: str, denoise: float = 1.0) -> None:
        """Make sure that a request's `model`, and its `denoise` where that is below 1, can be served.

        Raises:
            ModelUnavailable: its weights are not there.
        """
        if model not in self.models:
            raise ModelUnavailable(
                f"This server has no weights for the model {model!r}: {self.status[f'upscale_x4_{model}'].reason}. "
                f"Ask for {either(self.models)}.",
                field="model",
                allowed=list(self.models),
            )
        if denoise != 1 and model not in self.mixable:
            reason = self.status[f"upscale_x4_{model}_wdn"].reason
            raise ModelUnavailable(
                f"This server has no weights for denoise below 1: {reason}. Leave denoise out.", field="denoise"
            )


@dataclass(frozen=True)
class Models:
    """Everything that is loaded, and the status of everything that should be.

    Only the worker that owns the device may call into a loaded model.
    """

    super_resolvers: Mapping[str, SuperResolver]  # by the `model` of a request
    face_detector: FaceDetector | None = None
    face_restorer: FaceRestorer | None = None
    status: Mapping[str, ModelStatus] = field(default_factory=dict)  # by name in /health
    device: str = "cpu"
    precision: str = "fp32"
    platform: str = "cpu"  # of the device, all that bytes depend on: what it is, and the versions of its libraries
    allocated_bytes: Callable[[], int | None] = lambda: None  # of the device's own memory, where it has one
    is_out_of_memory: Callable[[Exception], bool] = lambda error: isinstance(error, MemoryError)  # of what a model raised
    device_lost_reason: Callable[[Exception], str] = lambda _error: ""  # likewise; empty: the device is well
    fast: Mapping[str, FastModel] = field(default_factory=dict)  # of the super resolvers, those with a rate of their own

    @property
    def engine(self) -> str:
        """For people: what runs the networks, and in what precision."""
        return next(iter(self.super_resolvers.values())).engine

    @property
    def capabilities(self) -> Capabilities:
        """Its identity tells the files of weights by their hashes, engine and platform."""
        weights = {name: status.sha256 for name, status in self.status.items()}
        return Capabilities(
            f"{weights}, {self.engine}, {self.platform}",
            self.device,
            self.engine,
            self.precision,
            tuple(self.super_resolvers),
            tuple(model for model, network in self.fast.items() if network.can_mix),
            self.status,
        )

    def super_resolver(self, model: str, denoise: float = 1.0) -> SuperResolver:
        """The super resolver of a request's `model`, and of its `denoise` where that is below 1.

        Raises:
            ModelUnavailable: its weights are not on this server.
        """
        self.capabilities.check(model, denoise)
        return self.super_resolvers[model] if denoise == 1 else self.fast[model].at(denoise)

    def run_all_once(self) -> None:
        """Do what would make the first pass of any network slow."""
        for super_resolver in self.super_resolvers.values():
            super_resolver.run_once()

    def warm_up(self, side_px: int, progress: Progress) -> None:
        """One pass over a square, so that the device's rate is known."""
        self.super_resolvers["photo"].super_resolve(_noise(side_px), 4, progress)

    def return_freed_memory(self) -> None:
        """Give the system back what the process has freed; any thread may call this, when no pass runs."""
        from models.process import return_freed_memory

        return_freed_memory()

    def measure_others(self, flops_per_second: float) -> None:
        """Learn what faces and the fast models cost on this device, in FLOPs of a pass, of which it does so many a second."""
        for model in (self.face_detector, self.face_restorer, *self.fast.values()):
            if model is not None:
                model.measure(flops_per_second)


def _noise(side_px: int) -> NDArray[np.uint8]:
    """Pixels that cost what a photograph's do: a device may be faster with zeros."""
    return np.random.default_rng(side_px).integers(0, 256, (side_px, side_px, 3), np.uint8)


def visible_devices() -> list[str]:
    """`cuda:0`, `cuda:1` and so on, of the graphics cards that torch finds; importing it takes seconds.

    Raises:
        ConfigError: there is none.
    """
    from models.device import visible_cards

    return visible_cards()


def load_models(settings: Settings) -> Models:
    """Load every model whose weights are there and genuine.

    Raises:
        WeightsError: a required file is missing or not what the manifest says, or they need more memory than there is.
        ConfigError: `DEVICE` is not there.
    """
    from models.device import select_device
    from models.device_faults import device_lost_reason, is_out_of_memory, probe_device
    from models.engines.winograd import unavailable_reason
    from models.face_detection import FaceDetector
    from models.face_restoration import FaceRestorer

    device = select_device(settings.device, settings.precision, settings.torch_threads)
    shortage = too_little_memory(lambda file: os.access(settings.weights_dir / file.name, os.R_OK))
    if shortage and device.torch_device.type == "cpu":
        raise WeightsError(shortage)
    for warning in (device.warning, unavailable_reason() if device.torch_device.type == "cpu" else ""):
        if warning:
            logger.warning("%s", warning)
    weights = _Weights(settings.weights_dir)
    super_resolvers = _load_super_resolvers(weights, device)
    fast = _load_fast(weights, device)
    detector = None
    for file, backbone in _FACE_DETECTION:
        if detector is None and (state_dict := weights.load("face_detection", file)) is not None:
            detector = FaceDetector.load(state_dict, backbone, device)
    restorer = None
    parser = weights.load("face_parsing", "parsing_parsenet.pth")
    if (gfpgan := weights.load("face_restoration", "GFPGANv1.4.pth")) is not None:
        restorer = FaceRestorer.load(gfpgan, parser, device)
    lost_reason = partial(device_lost_reason, probe=partial(probe_device, device.torch_device))
    return Models(
        super_resolvers | {model: network.at(1.0) for model, network in fast.items()},
        detector,
        restorer,
        weights.status,
        str(device),
        device.precision,
        device.identity,
        device.allocated_bytes,
        is_out_of_memory,
        lost_reason,
        fast,
    )


def _load_super_resolvers(weights: _Weights, device: Device) -> dict[str, SuperResolver]:
    """Apart from `load_models`: what is imported there keeps, in some exception, that function's variables for ever."""
    from models.engines.rrdbnet import build_rrdbnet
    from models.super_resolution import SuperResolver

    by_model: dict[str, dict[int, Any]] = {}
    for model, scale, name, file in _SUPER_RESOLUTION:
        if (state_dict := weights.load(name, file)) is not None:
            by_model.setdefault(model, {})[scale] = build_rrdbnet(state_dict, scale)
    return {model: SuperResolver(by_scale, device) for model, by_scale in by_model.items()}


def _load_fast(weights: _Weights, device: Device) -> dict[str, FastModel]:
    from models.fast import FastModel

    models: dict[str, FastModel] = {}
    for model, usual, weak in _FAST:
        state_dict, weak_dict = weights.load(*usual), weights.load(*weak) if weak else None
        if state_dict is not None:
            models[model] = FastModel(state_dict, device, weak_dict)
    return models


class _Weights:
    """Reads files of weights that are there and genuine, and remembers for the others why not."""

    def __init__(self, folder: Path) -> None:
        self.status: dict[str, ModelStatus] = {}
        self._folder = folder
        self._manifest = read_manifest()

    def load(self, name: str, file: str) -> dict[str, Any] | None:
        from models.checkpoint import load_state_dict

        weight_file, path = self._manifest[file], self._folder / file
        try:
            sha256 = sha256_of(path) if path.is_file() else ""
            if sha256 not in weight_file.genuine_sha256:
                raise WeightsError("is missing" if not path.exists() else "is not the file of the manifest (wrong SHA-256)")
            state_dict = load_state_dict(path)
        except (WeightsError, OSError, RuntimeError, pickle.UnpicklingError) as exc:
            self.status[name] = status = ModelStatus(reason=f"{file} {exc}", fix=_fix(path, weight_file))
            if weight_file.required:
                raise WeightsError(f"{status.reason}. {status.fix}") from exc
            return None
        self.status[name] = ModelStatus(file, sha256)
        return state_dict


def _fix(path: Path, weight_file: WeightFile) -> str:
    return (
        f"Without it, {weight_file.without}. "
        f"To get it, run `.venv/bin/python -m weights.fetch`, or put {weight_file.url} into {path.parent.resolve()}."
    )
