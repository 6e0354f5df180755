"""Where the models run, in what precision, and how much memory one pass may use."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.config import ConfigError
from core.host import memory_limit_bytes

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8 | np.uint16]
"""`(h, w, 3)` RGB, or `(h, w)` gray where a function says so; 0 to 255, or to 65535."""

FIRST_TIME_SECONDS = 1.0  # what loading libraries and choosing kernels may take, the first time that a network runs

THREADS = torch.get_num_threads()  # before anything sets another number
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """Where and how the models run.

    `memory_bytes` is what one pass may use, half of all that the device has: a choice that followed the momentary load would
    give the same request different bytes.
    """

    torch_device: torch.device
    dtype: torch.dtype
    memory_bytes: int
    warning: str = ""

    def current(self) -> contextlib.AbstractContextManager[object]:
        """Within it, this GPU is the one that the thread's events, streams and allocations are of."""
        return torch.cuda.device(self.torch_device) if self.torch_device.type == "cuda" else contextlib.nullcontext()

    def release_cached_memory(self) -> None:
        """Give the GPU back what torch keeps of freed memory: in other pieces, it may be enough."""
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()

    def allocated_bytes(self) -> int | None:
        """Memory of the GPU that tensors hold now; None on a CPU."""
        return torch.cuda.memory_allocated(self.torch_device) if self.torch_device.type == "cuda" else None

    @property
    def precision(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)

    @property
    def identity(self) -> str:
        """Of all that the bytes of a result depend on here, but for the weights and the engine; equal for equal cards."""
        if self.torch_device.type == "cuda":
            name, cudnn = torch.cuda.get_device_name(self.torch_device), torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
            return f"{name}, {self.precision}, torch {torch.__version__}, cuDNN {cudnn}"
        return f"cpu, {self.precision}, torch {torch.__version__}"

    def __str__(self) -> str:
        if self.torch_device.type == "cuda":
            return f"{self.torch_device} ({torch.cuda.get_device_name(self.torch_device)})"
        return f"cpu ({torch.get_num_threads()} threads)"


def noise(side_px: int) -> Image:
    """Pixels that cost what a photograph's do, by seed: a device may be faster with zeros."""
    return np.random.default_rng(side_px).integers(0, 256, (side_px, side_px, 3), np.uint8)


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds that `run` takes; the second time, if the first was too short to tell it from what is done once."""
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        if seconds > FIRST_TIME_SECONDS:
            break
    return seconds


def visible_cards() -> list[str]:
    """`cuda:0`, `cuda:1` and so on, of the cards that torch finds and has kernels for.

    Raises:
        ConfigError: there is none.
    """
    cards, architectures = [], torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        if lacking := _lacking_kernels_reason(torch.cuda.get_device_capability(index), architectures):
            logger.warning("cuda:%d is not used: %s", index, lacking)
        else:
            cards.append(f"cuda:{index}")
    if not cards:
        raise ConfigError(f"DEVICE=all, but torch finds no CUDA devices of use here. {_unusable_gpu_reason()}".rstrip())
    return cards


def select_device(name: str = "auto", precision: str = "auto", threads: int = 0) -> Device:
    """Resolve `DEVICE`, `PRECISION` and `TORCH_THREADS` on this machine.

    Of several CPU workers, `cpu,cpu`, one: with its share of the threads and of the memory.

    Raises:
        ConfigError: the device named is not there or of no use, or the precision is not one that it computes in.
    """
    name, *others = name.split(",")
    workers = 1 + len(others)
    if threads or workers > 1:
        torch.set_num_threads(max((threads or THREADS) // workers, 1))
    unusable = _unusable_gpu_reason() if name != "cpu" else ""
    torch_device = torch.device(("cpu" if unusable or not torch.cuda.is_available() else "cuda") if name == "auto" else name)
    if torch_device.type == "cpu":
        if precision == "fp16":
            raise ConfigError("PRECISION=fp16 is for graphics cards; a CPU computes in fp32. Leave PRECISION unset.")
        memory_bytes = _memory_bytes(torch_device) // 2 // workers
        return Device(torch_device, torch.float32, memory_bytes, unusable if name == "auto" else "")
    if (torch_device.index or 0) >= torch.cuda.device_count():
        found = f"torch finds {torch.cuda.device_count()} CUDA devices here"
        raise ConfigError(f"DEVICE={name}, but {found}. {unusable}".rstrip())
    if lacking := _lacking_kernels_reason(torch.cuda.get_device_capability(torch_device), torch.cuda.get_arch_list()):
        raise ConfigError(f"DEVICE={name}, but {lacking}")
    # TF32 keeps ten bits of each factor's fraction, and torch's default lets cuDNN use it where fp32 is asked for.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return Device(torch_device, DTYPES["fp16" if precision == "auto" else precision], _memory_bytes(torch_device) // 2)


def _unusable_gpu_reason(driver: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Sentences if the machine has an NVIDIA card that torch cannot use, else the empty string."""
    if not torch.cuda.is_available() and not driver.exists():
        return ""
    try:
        if torch.cuda.is_available():
            reason = _lacking_kernels_reason(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
            return f"{_NOT_USED} {reason[0].upper()}{reason[1:]}" if reason else ""
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).splitlines()[0].rstrip(".")
    else:
        reason = "no device is visible to this process"
    return (
        f"{_NOT_USED} This machine has an NVIDIA driver, but torch "
        f"{torch.__version__} says: {reason}. The driver must support CUDA {torch.version.cuda}, and a container "
        "must be given the card (docker run --gpus all)."
    )


_NOT_USED = "THE GRAPHICS CARD IS NOT USED, and the CPU is far slower."


def _lacking_kernels_reason(capability: tuple[int, int], architectures: Sequence[str]) -> str:
    """A sentence if torch has no kernels for a card of that compute capability, else the empty string.

    `architectures` are those that torch was built for: `sm_86` is machine code, which runs on 8.6 to 8.9; `compute_90` is for
    the driver to compile, for any later card.
    """
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        built_for = int(digits[:-1]), int(digits[-1])
        if built_for <= capability and (kind == "compute" or built_for[0] == capability[0]):
            return ""
    return (
        f"torch {torch.__version__} has no kernels for a card of compute capability {'.'.join(map(str, capability))}; "
        f"it was built for {', '.join(architectures)}."
    )


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), memory_limit_bytes())
