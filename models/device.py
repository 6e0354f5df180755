"""Where the models run, in what precision, and how much memory one pass may use."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.config import ConfigError

Image = NDArray[np.uint8]
"""`(h, w, 3)` RGB, or `(h, w)` gray where a function says so."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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

    def allocated_bytes(self) -> int | None:
        """Memory of the GPU that tensors hold now; None on a CPU."""
        return torch.cuda.memory_allocated(self.torch_device) if self.torch_device.type == "cuda" else None

    @property
    def precision(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)

    def __str__(self) -> str:
        if self.torch_device.type == "cuda":
            return f"{self.torch_device} ({torch.cuda.get_device_name(self.torch_device)})"
        return f"cpu ({torch.get_num_threads()} threads)"


def select_device(name: str = "auto", precision: str = "auto", threads: int = 0) -> Device:
    """Resolve `DEVICE`, `PRECISION` and `TORCH_THREADS` on this machine.

    Raises:
        ConfigError: the device named is not there.
    """
    if threads:
        torch.set_num_threads(threads)
    unusable = _unusable_gpu_reason()
    torch_device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count():
        found = f"torch finds {torch.cuda.device_count()} CUDA devices here"
        raise ConfigError(f"DEVICE={name}, but {found}. {unusable}".rstrip())
    warning = unusable if torch_device.type == "cpu" and name == "auto" else ""
    dtype = DTYPES[precision] if precision != "auto" else _native_dtype(torch_device)
    return Device(torch_device, dtype, _memory_bytes(torch_device) // 2, warning)


def _unusable_gpu_reason(driver: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Sentences if the machine has an NVIDIA card that torch cannot use, else the empty string."""
    if torch.cuda.is_available() or not driver.exists():
        return ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).splitlines()[0].rstrip(".")
    else:
        reason = "no device is visible to this process"
    return (
        "THE GRAPHICS CARD IS NOT USED, and the CPU is far slower. This machine has an NVIDIA driver, but torch "
        f"{torch.__version__} says: {reason}. The driver must support CUDA {torch.version.cuda}, and a container "
        "must be given the card (docker run --gpus all)."
    )


def _native_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype that the device computes natively: elsewhere half precision is emulated, and slower than fp32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if capability >= (8, 0) else torch.float16 if capability >= (7, 0) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _cgroup_limit_bytes())


def _cgroup_limit_bytes() -> int:
    """The container's memory limit (cgroup v2, else v1), or a very large number where there is none."""
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if path.exists() and (text := path.read_text().strip()).isdigit():
            return int(text)
    return sys.maxsize
