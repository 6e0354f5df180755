"""`python -m bench.gpu [--dry] [--out FOLDER] [PART …]`: everything that only a graphics card can tell, in minutes.

Each part's figures go to `gpu.json` in the folder as soon as they are there, so that a limit of time loses nothing; `--dry`
runs the same on a CPU with small pictures, to see that it runs. docs/development.md says what is predicted and what follows.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from bench.context import describe_context
from bench.document import write_part
from bench.images.photographs import largest_difference, psnr_db, square
from bench.report.gpu import report
from core.config import PROJECT, Settings
from core.progress import NullProgress
from models.checkpoint import load_state_dict
from models.device import Device, select_device
from models.engines.rrdbnet import build_rrdbnet, flops_per_feature_px
from models.engines.torch_engine import TorchEngine

Image = NDArray[np.uint8]
NOBODY = NullProgress()
FIGURES = PROJECT / "docs" / "bench"


class Card:
    """What the parts share: the device, the network, the sizes, and where figures go."""

    def __init__(self, folder: Path, *, dry: bool, from_start: bool) -> None:
        self.dry = dry
        self.device = select_device("cpu" if dry else "cuda")
        self.rrdbnet = build_rrdbnet(load_state_dict(Settings.from_env().weights_dir / "RealESRGAN_x4plus.pth"), 4)
        self.sizes = [(16, 8)] if dry else [(64, 64), (128, 128), (256, 256), (512, 512), (960, 540), (1920, 1080)]
        self.folder = folder
        self._file = folder / "gpu.json"
        self._figures: dict[str, Any] = {} if from_start or not self._file.exists() else json.loads(self._file.read_text())

    def note(self, key: str, value: Any) -> None:
        """Keep a figure, on disk at once."""
        self._figures[key] = value
        self._file.write_text(json.dumps(self._figures, indent=1))
        sys.stdout.write(f"{key}: {value}\n")
        sys.stdout.flush()

    def forget(self, key: str) -> None:
        """Drop a figure of an earlier run."""
        self._figures.pop(key, None)

    def engine(self, kind: str) -> TorchEngine:
        """`fp32`, `fp16` (torch's kernels) or `fused` (ours, in fp16)."""
        dtype = torch.float32 if kind == "fp32" or self.dry else torch.float16
        device = Device(self.device.torch_device, dtype, self.device.memory_bytes)
        return TorchEngine(self.rrdbnet, device, fused=kind == "fused")

    def median_ms(self, run: Callable[[], object], rounds: int = 7) -> tuple[float, float]:
        """The median, and the least, of so many runs, to the end of all that they queued."""
        milliseconds = []
        for _ in range(1 if self.dry else 2 + rounds):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            milliseconds.append(1e3 * (time.perf_counter() - start))
        measured = milliseconds[0 if self.dry else 2 :]
        return round(statistics.median(measured), 3), round(min(measured), 3)

    def wait(self) -> None:
        """Until the card has nothing left to do."""
        if not self.dry:
            torch.cuda.synchronize()


def environment(card: Card) -> None:
    """What it is, and its two ceilings: memory and matrix products."""
    versions = [torch.__version__, torch.version.cuda, torch.backends.cudnn.version(), torch.cuda.get_arch_list()]  # type: ignore[no-untyped-call]
    card.note("torch, CUDA, cuDNN, architectures", versions)
    card.note("context", {"date": time.strftime("%Y-%m-%d"), **describe_context({"device": str(card.device)})})
    card.note("identity", card.device.identity)
    side, count = (64, 1 << 16) if card.dry else (8192, 1 << 31)
    first = torch.empty(count, dtype=torch.uint8, device=card.device.torch_device)
    second = first.clone()
    card.note("copy, TB/s", round(2 * count / card.median_ms(lambda: second.copy_(first))[0] / 1e9, 2))
    dtype = torch.float32 if card.dry else torch.float16
    left, right = (torch.randn(side, side, device=card.device.torch_device, dtype=dtype) for _ in range(2))
    rate = 2 * side**3 / card.median_ms(lambda: left @ right)[0] / 1e9
    card.note("matrix product, TFLOP/s", float(f"{rate:.3g}"))


def exactness(card: Card) -> None:
    """Against fp32 on the CPU, on a photograph and on fur; whether it repeats itself; whether tiles show."""
    side = 12 if card.dry else 192
    pictures = {"photograph": square(side), "fur": _fur(side)}
    cpu = TorchEngine(card.rrdbnet, select_device("cpu"))
    expected = {name: cpu.upscale(picture, NOBODY) for name, picture in pictures.items()}
    for kind in ("fused", "fp16", "fp32"):
        engine = card.engine(kind)
        for name, picture in pictures.items():
            result = engine.upscale(picture, NOBODY)
            card.note(
                f"exactness, {kind}, {name}",
                {
                    "engine": engine.name,
                    "dB": round(psnr_db(result, expected[name]), 2),
                    "grey levels": largest_difference(result, expected[name]),
                    "repeats": bool(np.array_equal(engine.upscale(picture, NOBODY), result)),
                    "sha256": hashlib.sha256(result.tobytes()).hexdigest()[:12],
                },
            )


def times(card: Card) -> None:
    """One pass by size, with our kernels and with torch's, and what the host takes to queue it."""
    for kind in ("fused", "fp16"):
        engine = card.engine(kind)
        for width, height in card.sizes:
            picture = _picture(width, height)
            if not card.dry:
                torch.cuda.reset_peak_memory_stats()
            median, least = card.median_ms(lambda: engine.upscale(picture, NOBODY))  # noqa: B023
            rate = flops_per_feature_px(len(card.rrdbnet.body)) * width * height / median / 1e9
            peak = 0 if card.dry else torch.cuda.max_memory_allocated() >> 20
            card.note(
                f"time, {kind}, {width}x{height}", {"ms": median, "least": least, "TFLOP/s": round(rate, 1), "MiB": peak}
            )


def baseline(card: Card) -> None:
    """RealESRGANer with `half=True`, as shipped, without tiles, which cost it time."""
    from realesrgan import RealESRGANer

    path = str(Settings.from_env().weights_dir / "RealESRGAN_x4plus.pth")
    model = build_rrdbnet(load_state_dict(Path(path)), 4)
    theirs = RealESRGANer(4, path, model=model, tile=0, pre_pad=0, half=not card.dry, device=card.device.torch_device)
    for width, height in card.sizes:
        bgr = np.ascontiguousarray(_picture(width, height)[:, :, ::-1])
        median, least = card.median_ms(lambda: theirs.enhance(bgr), 3)  # noqa: B023
        card.note(f"time, RealESRGANer, {width}x{height}", {"ms": median, "least": least})


def profile(card: Card) -> None:
    """Where a pass of 512² spends its time, by kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU] if card.dry else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    picture = _picture(24, 16) if card.dry else _picture(512, 512)
    for kind in ("fused", "fp16"):
        engine = card.engine(kind)
        engine.upscale(picture, NOBODY)
        with profiled(activities=activities) as found:
            engine.upscale(picture, NOBODY)
            card.wait()
        by = "self_cpu_time_total" if card.dry else "self_cuda_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=70)
        (card.folder / f"profile_{kind}.txt").write_text(table)
        card.note(f"profile, {kind}", [line.split()[0] for line in table.splitlines()[3:9] if line.split()])


def graphs(card: Card) -> None:
    """Whether replaying a CUDA graph of the body beats queueing its kernels, where the host is slow beside the card."""
    engine = card.engine("fused")
    if engine._fused is None:  # on a CPU, or an old card
        return
    for side in (64, 128, 256):
        shallow = torch.randn(1, 64, side, side, device="cuda").contiguous(memory_format=torch.channels_last)
        fused = engine._fused
        queued = card.median_ms(lambda: fused.body(shallow, NOBODY))[0]  # noqa: B023
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            fused.body(shallow, NOBODY)
        card.note(f"graph, {side}²", {"queued, ms": queued, "replayed, ms": card.median_ms(graph.replay)[0]})


def faces(card: Card) -> None:
    """What a search and a face cost: RetinaFace, and GFPGAN with random weights, which take as long as real ones."""
    from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean

    from models.face_detection import FaceDetector
    from models.face_restoration import FaceRestorer

    weights = load_state_dict(Settings.from_env().weights_dir / "detection_mobilenet0.25_Final.pth")
    detector = FaceDetector.load(weights, "mobile0.25", card.device)
    for side in (128,) if card.dry else (512, 1280):
        picture = _picture(side, side)
        card.note(f"detection, {side}²", card.median_ms(lambda: detector.detect(picture), 3))  # noqa: B023
    if card.dry:
        return
    gfpgan = GFPGANv1Clean(512, 512, 2, fix_decoder=False, input_is_latent=True, different_w=True, sft_half=True)
    restorer = FaceRestorer(gfpgan.requires_grad_(False), None, card.device)
    for count in (1, 4):
        batch = [_picture(512, 512)] * count
        card.note(f"restoration, {count} faces", card.median_ms(lambda: restorer.restore(batch), 3))  # noqa: B023


def faults(card: Card) -> None:
    """What the errors look like that our code tells apart: a dead device, a shortage of memory."""
    if card.dry:
        return
    dead = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", _DEVICE_ASSERT], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    card.note("a dead device", [dead.returncode, *dead.stdout.splitlines(), dead.stderr[-300:]])
    engines = {kind: card.engine(kind) for kind in ("fused", "fp16")}
    for engine in engines.values():
        engine.upscale(_picture(64, 64), NOBODY)  # what libraries keep for themselves, they have then
    free_bytes = torch.cuda.mem_get_info()[0]
    hog = torch.empty(free_bytes - (700 << 20), dtype=torch.uint8, device="cuda")
    for kind, engine in engines.items():
        try:
            engine.upscale(_picture(1920, 1080), NOBODY)
            card.note(f"a full card, {kind}", f"served; {engine.shortages} shortages")
        except RuntimeError as exc:
            card.note(f"a full card, {kind}", f"{type(exc).__mro__[:2]}: {str(exc)[:300]}")
    del hog
    torch.cuda.empty_cache()


_DEVICE_ASSERT = """
import torch
x = torch.zeros(4, device="cuda")
for attempt in range(2):
    try:
        (x[torch.tensor([9**9], device="cuda")] if attempt == 0 else torch.zeros(1, device="cuda")).cpu()
    except Exception as exc:
        print([c.__name__ for c in type(exc).__mro__[:3]], getattr(exc, "error_code", None), str(exc).splitlines()[0])
"""


def jpeg(card: Card) -> None:
    """A picture of 8k as a JPEG, by Pillow on the CPU and by nvJPEG on the card."""
    picture = _picture(96, 64) if card.dry else _picture(7680, 4320)

    def by_pillow() -> bytes:
        buffer = io.BytesIO()
        PILImage.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling="4:4:4")
        return buffer.getvalue()

    card.note("JPEG by Pillow", {"ms": card.median_ms(by_pillow, 3)[0], "bytes": len(by_pillow())})
    if card.dry:
        return
    from torchvision.io import encode_jpeg

    pixels = torch.from_numpy(picture).to("cuda").permute(2, 0, 1).contiguous()

    def on_card() -> bytes:
        return bytes(encode_jpeg(pixels, quality=95).cpu().numpy())

    milliseconds, first, second = card.median_ms(on_card, 5)[0], on_card(), on_card()
    card.note("JPEG by nvJPEG", {"ms": milliseconds, "bytes": len(first), "repeats": first == second})


def _picture(width: int, height: int) -> Image:
    """Pixels as uneven as a photograph's, by seed: a card may be faster with zeros."""
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    smooth = np.asarray(PILImage.fromarray(coarse).resize((width, height), PILImage.Resampling.BICUBIC))
    return np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def _fur(side: int) -> Image:
    """The middle of a photograph of a cat, at full detail."""
    import skimage.data

    cat: Image = skimage.data.chelsea()
    top, left = (cat.shape[0] - side) // 2, (cat.shape[1] - side) // 2
    return np.ascontiguousarray(cat[top : top + side, left : left + side])


PARTS = {part.__name__: part for part in (environment, exactness, times, baseline, profile, graphs, faces, faults, jpeg)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure what only a graphics card can tell.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--out", type=Path, help="folder of gpu.json and the profiles; docs/bench, or a new one with --dry")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with small pictures: whether it runs")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the figures into docs/gpu.md")
    options = parser.parse_args(arguments)
    if options.report:
        write_part("gpu", report(json.loads(((options.out or FIGURES) / "gpu.json").read_text())), PROJECT / "docs" / "gpu.md")
        return 0
    folder = options.out or (Path(tempfile.mkdtemp()) if options.dry else FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    card, failed = Card(folder, dry=options.dry, from_start=not options.parts), []
    for name in options.parts or PARTS:
        start = time.monotonic()
        try:
            PARTS[name](card)
            card.forget(f"failed: {name}")
        except Exception as exc:  # the others may still tell something
            traceback.print_exc()
            card.note(f"failed: {name}", f"{type(exc).__name__}: {str(exc)[:300]}")
            failed.append(name)
        sys.stdout.write(f"-- {name}: {time.monotonic() - start:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
