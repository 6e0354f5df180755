"""Our engine and its baselines: everything that a user could have taken instead, with the same weights.

Each is built in a process of its own (`bench.compare.worker`), so none has another's thread pool, allocator or environment.
Heavy packages are therefore imported where they are used. Each engine gets the same number of threads and the options that its
documentation names for speed. All take uint8 RGB `(h, w, 3)` and return uint8 RGB `(4h, 4w, 3)`, conversions included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.compare.ncnn_model import write_ncnn
from bench.images.photographs import Image
from core.config import Settings
from core.progress import NullProgress

Upscale = Callable[[Image], Image]

X4PLUS = "RealESRGAN_x4plus.pth"
PRODUCT_SIDE = 4096
PRODUCTS = 8
PRODUCT_FLOPS = PRODUCTS * 2.0 * PRODUCT_SIDE**3


@dataclass(frozen=True)
class Engine:
    """A name, and how it is built for squares of one side: in a process of its own, so `build` must be picklable."""

    name: str
    build: Callable[[int], Callable[[Image], Image | None]]


def build_ours(_side_px: int) -> Upscale:
    from models.checkpoint import load_state_dict
    from models.device import select_device
    from models.engines.rrdbnet import build_rrdbnet
    from models.super_resolution import SuperResolver

    settings = Settings.from_env()
    device = select_device(settings.device, settings.precision, settings.torch_threads)
    resolver = SuperResolver({4: build_rrdbnet(load_state_dict(settings.weights_dir / X4PLUS), 4)}, device)
    return lambda image: resolver.super_resolve(image, 4, NullProgress())


def build_realesrganer(_side_px: int, *, tile: int = 0, half: bool = False) -> Upscale:
    """The class that ships with Real-ESRGAN, with the defaults of its own command line (`pre_pad=0`)."""
    model = _model()
    from realesrgan import RealESRGANer

    path = str(Settings.from_env().weights_dir / X4PLUS)
    shipped = RealESRGANer(4, path, model=model, tile=tile, pre_pad=0, half=half)

    def upscale(image: Image) -> Image:
        bgr: Image = shipped.enhance(np.ascontiguousarray(image[:, :, ::-1]))[0]
        return np.ascontiguousarray(bgr[:, :, ::-1])

    return upscale


def build_realesrganer_tile_512(side_px: int) -> Upscale:
    return build_realesrganer(side_px, tile=512)


def build_realesrganer_half(side_px: int) -> Upscale:
    return build_realesrganer(side_px, half=True)


def build_openvino_bf16(side_px: int) -> Upscale:
    rrdbnet = _model()
    import openvino
    import torch

    trace: Any = torch.jit.trace
    with torch.no_grad():
        traced = trace(rrdbnet, _example(side_px), check_trace=False)  # the check takes most of the conversion's time
    model = openvino.convert_model(traced)
    model.reshape([1, 3, side_px, side_px])
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": _threads(),
    }
    compiled = openvino.compile_model(model, "CPU", options)
    return lambda image: _to_picture(compiled(_to_batch(image))[0])


def build_onnxruntime(side_px: int) -> Upscale:
    model = _model()
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x4plus.onnx")
        torch.onnx.export(model, (_example(side_px),), path, input_names=["pixels"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: _to_picture(session.run(None, {"pixels": _to_batch(image)})[0])


def build_ncnn(_side_px: int) -> Upscale:
    """In fp32: ncnn's narrow types are for ARM. Its Winograd convolutions are on by default."""
    model = _model()
    import ncnn

    loaded = ncnn.Net()
    loaded.opt.num_threads = _threads()
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


def build_inductor(side_px: int) -> Upscale:
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


def build_matrix_product(_side_px: int) -> Callable[[Image], None]:
    """Not an engine but a yardstick: torch's bf16 product of two large matrices, PRODUCT_FLOPS each time."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.rand(PRODUCT_SIDE, PRODUCT_SIDE, device=device).bfloat16() for _ in range(2))

    def multiply(_image: Image) -> None:
        products = [left @ right for _ in range(PRODUCTS)]
        float(products[-1][0, 0])  # waits for a GPU

    return multiply


OURS = Engine("ours", build_ours)
REALESRGANER = Engine("RealESRGANer", build_realesrganer)
REALESRGANER_TILE_512 = Engine("RealESRGANer, tile 512", build_realesrganer_tile_512)
OPENVINO = Engine("OpenVINO bf16", build_openvino_bf16)
ONNXRUNTIME = Engine("ONNX Runtime fp32", build_onnxruntime)
NCNN = Engine("ncnn fp32", build_ncnn)
REALESRGANER_HALF = Engine("RealESRGANer, half", build_realesrganer_half)
INDUCTOR = Engine("torch inductor fp16", build_inductor)
MATRIX_PRODUCT = Engine("bf16 matrix product", build_matrix_product)

ON_CPU = (REALESRGANER, REALESRGANER_TILE_512, ONNXRUNTIME, NCNN, OPENVINO, OURS)
ON_GPU = (REALESRGANER, REALESRGANER_HALF, INDUCTOR, OURS)


def _model() -> Any:
    """The plain RRDBNet in fp32.

    torch is imported before our engine prepares the process for it: a baseline gets OpenMP's defaults, which let threads spin.
    """
    import torch  # noqa: F401, I001
    from models.engines.rrdbnet import build_rrdbnet
    from models.checkpoint import load_state_dict

    return build_rrdbnet(load_state_dict(Settings.from_env().weights_dir / X4PLUS), 4)


def _threads() -> int:
    import torch

    return Settings.from_env().torch_threads or torch.get_num_threads()


def _example(side_px: int) -> Any:
    import torch

    return torch.rand(1, 3, side_px, side_px)


def _to_batch(image: Image) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def _to_picture(batch: NDArray[np.float32]) -> Image:
    """`(1, 3, h, w)` around 0–1 to uint8 RGB `(h, w, 3)`."""
    return np.ascontiguousarray((batch[0].clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
