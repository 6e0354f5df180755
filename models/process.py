"""What must be done to a process before it imports torch and basicsr."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc; musl and macOS have neither function


def prepare_process() -> None:
    """Set OpenMP and the allocator up, import torch, and let basicsr be imported beside today's torchvision."""
    # Torch's OpenMP reads this when it is loaded. By default its threads spin while they wait for each other, after each of
    # 351 convolutions. As soon as anything else wants a core, an encoder for one, they spin away each other's turn: beside two
    # busy processes on two cores, a pass of 64×64 took 1.9–4.1 s, and 0.8–1.5 s when they wait passively (alone: 0.43 and
    # 0.55 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _keep_freed_memory()
    _map_shared_libraries()
    _add_functional_tensor()


def _keep_freed_memory() -> None:
    """Let glibc's allocator keep what is freed and give it out again, until `return_freed_memory`.

    By default it takes every large array from the kernel and gives it back, and the kernel clears each of its pages first:
    half a million in a pass of 257×257. Threads share one heap, since their own end at 64 MB, too little for a feature map.
    """
    if hasattr(_libc, "mallopt"):
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
            _libc.mallopt(option, value)


def return_freed_memory() -> None:
    """Give the kernel back what the last pass has freed."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def _map_shared_libraries() -> None:
    """Load torch's libraries, if they are where its wheel has them, without the interpreter's lock.

    `import torch` would hold it, and with it /health, for 0.3 s when the files are in memory already. A call through ctypes
    holds none.
    """
    torch_package = importlib.util.find_spec("torch")
    if sys.platform == "linux" and torch_package and torch_package.origin:
        library = Path(torch_package.origin).parent / "lib" / "libtorch.so"
        _libc.dlopen(os.fsencode(library), os.RTLD_NOW)  # where there is none, import torch does what it does


def _add_functional_tensor() -> None:
    """basicsr 1.4.2 imports a module that torchvision dropped in 0.17; the one function that it takes lives on elsewhere."""
    with _torchvision_without_compiler():
        import torchvision.transforms.functional as functional

    shim = types.ModuleType("torchvision.transforms.functional_tensor")
    shim.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules.setdefault(shim.__name__, shim)


@contextmanager
def _torchvision_without_compiler() -> Iterator[None]:
    """Import torchvision without torch's compiler, of which it wants one function when its `roi_align` is called.

    Nothing here calls that. The compiler is 800 modules: 2.5 s of a start, and 140 MB.
    """
    if (name := "torch._dynamo.utils") in sys.modules:
        yield
        return

    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo.utils import is_compile_supported

        supported: bool = is_compile_supported(device_type)
        return supported

    stand_in = types.ModuleType(name)
    stand_in.is_compile_supported = is_compile_supported  # type: ignore[attr-defined]
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
