"""What an exception of torch says of the device: its memory was too small, or it is lost to this process."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import torch

# Texts of torch 2.14, OpenCV 5, cuDNN 9 and CUDA 13, in lower case.
_SHORTAGES = (
    "out of memory",  # CUDA's runtime and driver, whoever called them; torch.OutOfMemoryError says it too
    "error_out_of_memory",  # the driver, to our own kernels
    "can't allocate memory",  # torch's allocator on a CPU
    "std::bad_alloc",  # the rest of torch
    "insufficient memory",  # OpenCV
    "alloc_failed",  # cuBLAS
    "allocation_failed",  # cuDNN, on the host or on the device
    # cuDNN has tried every way to do a convolution, and torch has dropped the reason of each: in most cases no memory for
    # its workspace.
    "unable to find an engine to execute this computation",
    "unable to find a valid cudnn algorithm to run convolution",
    "cudnn_status_not_supported. ",  # an array too large for any of its kernels; longer names of this status mean other things
)

# Of cudaError_t, those after which a process can do nothing more with CUDA: driver_types.h says so of all but the first two,
# which report the same of the memory and the links.
LOST_CODES = frozenset(
    {
        214,  # uncorrectable ECC error
        220,  # uncorrectable NVLink error
        226,  # contained hardware error
        700,  # illegal address
        702,  # launch timeout
        710,  # device-side assert
        714,  # hardware stack error
        715,  # illegal instruction
        716,  # misaligned address
        717,  # invalid address space
        718,  # invalid program counter
        719,  # launch failure
        721,  # tensor memory leak
        810,  # MPS client terminated
        911,  # error of an external device
    }
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the same work can succeed in smaller pieces. cuDNN says of some shortages nothing but that it found no way."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | cv2.error) and any(text in str(error).lower() for text in _SHORTAGES)


def device_lost_reason(error: BaseException, probe: Callable[[], object]) -> str:
    """One line that says why this process can use its device no more; the empty string if it can, or if nothing suggests it.

    Args:
        error: what a task on the device raised.
        probe: uses the device, as `probe_device` does; called where the error alone does not tell. An error of cuDNN or
            cuBLAS may be the first sign of a lost device, and says nothing of it.
    """
    if not isinstance(error, RuntimeError):
        return ""
    if getattr(error, "error_code", None) in LOST_CODES:  # torch.AcceleratorError has it
        return _first_line(error)
    try:
        probe()
    except RuntimeError as exc:
        return "" if is_out_of_memory(exc) else _first_line(exc)
    return ""


def probe_device(device: torch.device) -> None:
    """Let the device write one number, and fetch it; where the device is lost, this fails as everything does.

    Raises:
        RuntimeError: it failed.
    """
    torch.zeros(1, device=device).cpu()


def _first_line(error: RuntimeError) -> str:
    """Without the advice that torch adds."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
