"""What exceptions say of the device: those that torch raises here, and the texts of the CUDA and cuDNN that came with it."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.server import ROOT
from models.device_faults import LOST_CODES, device_lost_reason, is_out_of_memory, probe_device
from tests.lost_device import accelerator_error


def healthy() -> None:
    """A device that does what it is asked to."""


def must_not_ask() -> None:
    raise AssertionError("the error alone told it")


def failing(error: Exception) -> Callable[[], None]:
    def probe() -> None:
        raise error

    return probe


def library(name: str) -> ctypes.CDLL:
    """A library of NVIDIA's as torch's wheel brings it; both that are asked for here can name errors without a card."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations or [] if package else []
    found = [path for folder in folders for path in Path(folder).glob(f"*/lib/{name}.so.*")]
    if not found:
        pytest.skip(f"{name} is not installed: torch is a CPU build")
    return ctypes.CDLL(str(found[0]))


def text_of(library_name: str, function_name: str, code: int) -> str:
    function = getattr(library(library_name), function_name)
    function.restype = ctypes.c_char_p
    text: bytes = function(code)
    return text.decode()


cuda_text = partial(text_of, "libcudart", "cudaGetErrorString")
cudnn_text = partial(text_of, "libcudnn", "cudnnGetErrorString")


def raised(function: Callable[[], object]) -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        function()
    return caught.value


# memory


def test_the_exception_of_a_cpu_without_memory_is_a_shortage() -> None:
    error = raised(lambda: torch.empty(1 << 62, dtype=torch.uint8))
    assert type(error) is RuntimeError  # so that the text is all there is
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …"),
        MemoryError(),
        accelerator_error(2, "out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes, …"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError(
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."
        ),
    ],
    ids=lambda error: str(error)[:40],
)
def test_a_shortage_of_memory_is_known_by_its_class_or_its_text(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        raised(lambda: torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 2, 3, 3))),
        accelerator_error(700, "an illegal memory access was encountered"),
        accelerator_error(209, "no kernel image is available for execution on the device"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH"),
        ValueError("out of memory"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_nothing_else_is_a_shortage(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_the_texts_of_a_shortage_are_those_of_the_installed_libraries() -> None:
    assert is_out_of_memory(RuntimeError(f"CUDA error: {cuda_text(2)}"))
    for code in (4003, 4004):  # CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED, …_DEVICE_…
        assert is_out_of_memory(RuntimeError(f"cuDNN error: {cudnn_text(code)}"))
    assert cudnn_text(3000) == "CUDNN_STATUS_NOT_SUPPORTED"


# a device that is lost


@pytest.mark.parametrize("code", sorted(LOST_CODES))
def test_a_code_of_a_lost_device_tells_without_asking_it(code: int) -> None:
    error = accelerator_error(code, cuda_text(code))
    assert device_lost_reason(error, must_not_ask) == f"CUDA error: {cuda_text(code)}"
    assert not is_out_of_memory(error)


def test_every_code_that_cuda_calls_the_end_of_the_process_is_known() -> None:
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations or [] if package else []
    headers = [path for folder in folders for path in Path(folder).glob("*/include/driver_types.h")]
    if not headers:
        pytest.skip("CUDA's headers are not installed")
    errors = headers[0].read_text(encoding="utf-8").split("enum __device_builtin__ cudaError\n")[1].split("\n}")[0]
    entries = [" ".join(entry.replace("*", " ").split()) for entry in errors.split("/**")]
    final = {int(entry.rpartition("=")[2].strip(" ,")) for entry in entries if "must be terminated and relaunched" in entry}
    assert len(final) > 10
    assert final | {214, 220} == LOST_CODES


FIRST_SIGNS = [
    accelerator_error(999, "unknown error"),
    accelerator_error(46, "CUDA-capable device(s) is/are busy or unavailable"),
    RuntimeError("CUDA error: device-side assert triggered"),  # of a library that does not raise torch's class
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]


@pytest.mark.parametrize("error", FIRST_SIGNS, ids=lambda error: str(error)[:40])
def test_where_the_error_does_not_tell_the_device_is_asked(error: RuntimeError) -> None:
    dead = accelerator_error(719, "unspecified launch failure")
    assert device_lost_reason(error, failing(dead)) == "CUDA error: unspecified launch failure"
    assert device_lost_reason(error, healthy) == ""
    assert device_lost_reason(error, failing(torch.OutOfMemoryError("CUDA out of memory"))) == ""


@pytest.mark.parametrize("error", [ValueError("in block 17"), KeyError("x"), ArithmeticError(), SystemExit()])
def test_an_error_that_no_device_raises_asks_nothing(error: BaseException) -> None:
    assert device_lost_reason(error, must_not_ask) == ""


def test_a_cpu_that_is_probed_is_well() -> None:
    probe_device(torch.device("cpu"))


# on a card

ILL = """
import torch
from models.device_faults import device_lost_reason, is_out_of_memory, probe_device
from functools import partial
card = torch.device("cuda")
probe = partial(probe_device, card)
probe()
try:
    torch.empty(1 << 50, dtype=torch.uint8, device=card)
except RuntimeError as exc:
    assert is_out_of_memory(exc) and device_lost_reason(exc, probe) == "", exc
    probe()
try:
    torch.zeros(10, device=card)[torch.arange(20, device=card)].cpu()
except RuntimeError as exc:
    assert exc.error_code == 710 and not is_out_of_memory(exc), exc
    assert device_lost_reason(exc, probe) == "CUDA error: device-side assert triggered"
    assert device_lost_reason(RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"), probe)
    print("lost")
"""


@pytest.mark.gpu
def test_a_card_that_asserts_is_lost_and_one_without_memory_is_not() -> None:
    ended = subprocess.run([sys.executable, "-c", ILL], cwd=ROOT, capture_output=True, text=True, timeout=120)  # noqa: S603
    assert ended.stdout == "lost\n", ended.stderr
