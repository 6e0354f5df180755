"""Our engine and its baselines: everything that a user could have taken instead, with the same weights.

Each is built in a process of its own (`bench.compare.worker`), so none has another's thread pool, allocator or environment.
Heavy packages are therefore imported where they are used. Each engine gets the same number of threads and the options that its
documentation names for speed. All take uint8 RGB `(h, w, 3)` and return uint8 RGB `(4h, 4w, 3)`, conversions included.
A builder gets the height and the width of the pictures that will come.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.compare.ncnn_model import write_ncnn
from bench.images.photographs import Image
from core.config import Settings
from core.progress import NullProgress

Upscale = Callable[[Image], Image]
Shape = tuple[int, int]
"""Height and width."""

X4PLUS = "RealESRGAN_x4plus.pth"
PRODUCT_SIDE = 4096
PRODUCTS = {"fp32": 2, "bf16": 8}
PRODUCT_FLOPS = 2.0 * PRODUCT_SIDE**3  # of each of them


@dataclass(frozen=True)
class Engine:
    """A name, and how it is built for pictures of one shape: in a process of its own, so `build` must be picklable."""

    name: str
    build: Callable[[Shape], Callable[[Image], Image | None]]
    any_shape: bool = True
    """Whether it takes pictures of other shapes, too."""


def build_ours(_shape: Shape) -> Upscale:
    from models.super_resolution import SuperResolver

    resolver = SuperResolver({4: rrdbnet()}, device())
    return lambda image: resolver.super_resolve(image, 4, NullProgress())


def build_ours_avx2(_shape: Shape) -> Upscale:
    """Ours as a CPU without AVX-512 runs it."""
    from models.engines.winograd import WinogradEngine

    engine = WinogradEngine(rrdbnet(), device().memory_bytes, threads(), "avx2")
    return lambda image: engine.upscale(image, NullProgress())


def build_torch(_shape: Shape) -> Upscale:
    """What the service runs where its own engine cannot."""
    from models.engines.torch_engine import TorchEngine

    engine = TorchEngine(rrdbnet(), device())
    return lambda image: engine.upscale(image, NullProgress())


def build_fast(file: str, _shape: Shape, *, torch_alone: bool = False) -> Upscale:
    """A fast network: as the service runs it, or where its engine for CPUs cannot run."""
    from models.checkpoint import load_state_dict
    from models.engines.srvgg import SrvggEngine, convolutions_of
    from models.fast import FastModel

    weights = load_state_dict(Settings.from_env().weights_dir / file)
    if torch_alone:
        engine = SrvggEngine(lambda: weights, convolutions_of(weights), device())
        return lambda image: engine.upscale(image, NullProgress())
    resolver = FastModel(weights, device()).at(1.0)
    return lambda image: resolver.super_resolve(image, 4, NullProgress())


def build_fast_realesrganer(file: str, _shape: Shape) -> Upscale:
    """The same network in the class that ships with Real-ESRGAN."""
    import torch  # noqa: F401 - before our preparations, as in `_model`

    from models.checkpoint import load_state_dict
    from models.engines.srvgg import convolutions_of

    path = Settings.from_env().weights_dir / file
    weights = load_state_dict(path)
    from realesrgan import RealESRGANer
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact

    network = SRVGGNetCompact(num_conv=convolutions_of(weights) - 2)
    return _enhance(RealESRGANer(4, str(path), model=network, tile=0, pre_pad=0, half=False))


def build_ours_without_picture(shape: Shape) -> Callable[[Image], None]:
    """x4plus as a yardstick of smaller networks, which make another picture."""
    upscale = build_ours(shape)

    def run(image: Image) -> None:
        upscale(image)

    return run


def build_realesrganer(_shape: Shape, *, tile: int = 0, half: bool = False) -> Upscale:
    """The class that ships with Real-ESRGAN, with the defaults of its own command line (`pre_pad=0`)."""
    model = _model()
    from realesrgan import RealESRGANer

    path = str(Settings.from_env().weights_dir / X4PLUS)
    return _enhance(RealESRGANer(4, path, model=model, tile=tile, pre_pad=0, half=half))


def _enhance(shipped: Any) -> Upscale:
    def upscale(image: Image) -> Image:
        bgr: Image = shipped.enhance(np.ascontiguousarray(image[:, :, ::-1]))[0]
        return np.ascontiguousarray(bgr[:, :, ::-1])

    return upscale


def build_realesrganer_half(shape: Shape) -> Upscale:
    return build_realesrganer(shape, half=True)


def build_openvino_bf16(shape: Shape) -> Upscale:
    plain = _model()
    import openvino
    import torch

    trace: Any = torch.jit.trace
    with torch.no_grad():
        traced = trace(plain, _example(shape), check_trace=False)  # the check takes most of the conversion's time
    model = openvino.convert_model(traced)
    model.reshape([1, 3, *shape])
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": threads(),
    }
    compiled = openvino.compile_model(model, "CPU", options)
    return lambda image: _to_picture(compiled(_to_batch(image))[0])


def build_onnxruntime(shape: Shape) -> Upscale:
    model = _model()
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x4plus.onnx")
        torch.onnx.export(model, (_example(shape),), path, input_names=["pixels"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: _to_picture(session.run(None, {"pixels": _to_batch(image)})[0])


def build_ncnn(_shape: Shape) -> Upscale:
    """In fp32: ncnn's narrow types are for ARM. Its Winograd convolutions are on by default."""
    model = _model()
    import ncnn

    loaded = ncnn.Net()
    loaded.opt.num_threads = threads()
    for narrow in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(loaded.opt, narrow, False)
    with tempfile.TemporaryDirectory() as folder:
        param, weights = write_ncnn(model, Path(folder))
        loaded.load_param(str(param))
        loaded.load_model(str(weights))

    def upscale(image: Image) -> Image:
        extractor = loaded.create_extractor()
        pixels = _to_batch(image)[0]  # ncnn refers to its memory until the result is there
        extractor.input("pixels", ncnn.Mat(pixels))
        _, result = extractor.extract("result")
        return _to_picture(np.array(result)[None])

    return upscale


def build_inductor(shape: Shape) -> Upscale:
    """torch's compiler on the same model in half precision, channels_last: what `torch.compile` gives without an engine."""
    model = _model()
    import torch

    half = model.to("cuda", torch.float16, memory_format=torch.channels_last)
    compiled: Any = torch.compile(half, mode="max-autotune")

    @torch.inference_mode()
    def upscale(image: Image) -> Image:
        batch = torch.from_numpy(_to_batch(image)).to("cuda", torch.float16, memory_format=torch.channels_last)
        pixels = compiled(batch)[0].permute(1, 2, 0).float().clamp_(0, 1).mul_(255).round_()
        result: Image = pixels.to(torch.uint8).cpu().numpy()
        return result

    return upscale


def build_matrix_product(precision: str, _shape: Shape) -> Callable[[Image], None]:
    """Not an engine but a yardstick: torch's product of two large matrices, some times."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = (torch.rand(PRODUCT_SIDE, PRODUCT_SIDE, device=device).to(dtype) for _ in range(2))

    def multiply(_image: Image) -> None:
        products = [left @ right for _ in range(PRODUCTS[precision])]
        float(products[-1][0, 0])  # waits for a GPU

    return multiply


OURS = Engine("ours", build_ours)
OURS_AVX2 = Engine("ours, AVX2", build_ours_avx2)
TORCH = Engine("ours, torch fp32", build_torch)
REALESRGANER = Engine("RealESRGANer", build_realesrganer)
OPENVINO = Engine("OpenVINO bf16", build_openvino_bf16, any_shape=False)
ONNXRUNTIME = Engine("ONNX Runtime fp32", build_onnxruntime, any_shape=False)
NCNN = Engine("ncnn fp32", build_ncnn)
REALESRGANER_HALF = Engine("RealESRGANer, half", build_realesrganer_half)
INDUCTOR = Engine("torch inductor fp16", build_inductor, any_shape=False)
FP32_PRODUCT = Engine("fp32 matrix product", partial(build_matrix_product, "fp32"))
BF16_PRODUCT = Engine("bf16 matrix product", partial(build_matrix_product, "bf16"))

FAST = {  # by file: the same network in the shipped class, on torch alone, and as the service runs it
    file: (
        Engine("RealESRGANer", partial(build_fast_realesrganer, file)),
        Engine("ours, torch", partial(build_fast, file, torch_alone=True)),
        Engine("ours", partial(build_fast, file)),
    )
    for file in ("realesr-animevideov3.pth", "realesr-general-x4v3.pth")
}
X4PLUS_PASS = Engine("x4plus, ours", build_ours_without_picture)

ON_GPU = (REALESRGANER, REALESRGANER_HALF, INDUCTOR, OURS)


def runnable(engines: Sequence[Engine]) -> list[Engine]:
    """Those that this machine can run: where no build of ours can, "ours" is what it runs on torch."""
    from models.engines.winograd import best_build

    left_out = () if best_build() else (OURS_AVX2, TORCH)
    return [engine for engine in engines if engine not in left_out]


def engine_name() -> str:
    """What ours runs on here."""
    from models.super_resolution import SuperResolver

    return SuperResolver({4: rrdbnet()}, device()).engine


def _model() -> Any:
    """The plain RRDBNet in fp32.

    torch is imported before our engine prepares the process for it: a baseline gets OpenMP's defaults, which let threads spin.
    """
    import torch  # noqa: F401

    return rrdbnet()


def rrdbnet() -> Any:
    """The same, by the preparations of our own process."""
    from models.checkpoint import load_state_dict
    from models.engines.rrdbnet import build_rrdbnet

    return build_rrdbnet(load_state_dict(Settings.from_env().weights_dir / X4PLUS), 4)


def device() -> Any:
    """The device that the settings choose on this machine, a `models.device.Device`."""
    from models.device import select_device

    settings = Settings.from_env()
    return select_device(settings.device, settings.precision, settings.torch_threads)


def threads() -> int:
    """So many threads each engine gets."""
    import torch

    return Settings.from_env().torch_threads or torch.get_num_threads()


def _example(shape: Shape) -> Any:
    import torch

    return torch.rand(1, 3, *shape)


def _to_batch(image: Image) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def _to_picture(batch: NDArray[np.float32]) -> Image:
    """`(1, 3, h, w)` around 0–1 to uint8 RGB `(h, w, 3)`."""
    return np.ascontiguousarray((batch[0].clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
