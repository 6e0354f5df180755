"""Which device is taken, and what is said of one that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from core.config import ConfigError
from models.device import THREADS, _lacking_kernels_reason, seconds_of, select_device, visible_cards

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 3), (12, 1)])
def test_a_card_of_a_generation_that_torch_was_built_for_is_taken(capability: tuple[int, int]) -> None:
    assert _lacking_kernels_reason(capability, WHEEL) == ""


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (11, 0), (13, 0)])
def test_another_one_is_refused_by_name(capability: tuple[int, int]) -> None:
    reason = _lacking_kernels_reason(capability, WHEEL)
    assert ".".join(map(str, capability)) in reason
    assert "sm_75" in reason


def test_code_for_the_drivers_compiler_runs_on_later_cards() -> None:
    assert _lacking_kernels_reason((13, 0), [*WHEEL, "compute_120"]) == ""
    assert _lacking_kernels_reason((9, 0), ["sm_90a"]) == ""


class FakeCuda:
    """A machine with one card of that compute capability."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        card = type("Properties", (), {"total_memory": 2**34})
        answers: dict[str, Callable[..., object]] = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_capability": lambda _device=None: capability,
            "get_arch_list": lambda: WHEEL,
            "get_device_properties": lambda _device: card,
            "get_device_name": lambda _device: "NVIDIA Fake",
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)


@pytest.fixture
def tf32() -> Iterator[None]:
    """As torch has it, and again afterwards."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_a_card_computes_in_fp16_and_what_is_called_fp32_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, (8, 6))
    device = select_device()
    assert device.torch_device.type == "cuda"
    assert device.precision == "fp16"
    assert select_device(precision="fp32").precision == "fp32"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_two_equal_cards_have_one_identity_with_the_versions_of_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, (8, 6))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    first, second = select_device("cuda:0"), select_device("cuda:1")
    assert first.identity == second.identity
    assert "NVIDIA Fake, fp16" in first.identity
    assert torch.__version__ in first.identity


def test_a_card_that_is_too_old_is_left_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, (6, 1))
    device = select_device()
    assert device.torch_device.type == "cpu"
    assert "THE GRAPHICS CARD IS NOT USED" in device.warning
    assert "6.1" in device.warning
    with pytest.raises(ConfigError, match=r"DEVICE=cuda.*6\.1"):
        select_device("cuda")


def test_a_cpu_computes_in_fp32_alone() -> None:
    assert select_device("cpu").precision == "fp32"
    with pytest.raises(ConfigError, match="PRECISION=fp16"):
        select_device("cpu", "fp16")


def test_a_first_time_that_is_short_is_not_measured() -> None:
    runs = []
    assert seconds_of(lambda: runs.append(1)) < 1
    assert len(runs) == 2


def test_all_cards_are_those_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, (8, 6))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_cards() == ["cuda:0", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: ((6, 1), (8, 6))[index])
    assert visible_cards() == ["cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="DEVICE=all, but torch finds no CUDA devices of use here"):
        visible_cards()


@pytest.mark.parametrize("threads", [0, 6])
def test_workers_on_one_cpu_share_its_threads_and_its_memory(threads: int) -> None:
    before, whole = torch.get_num_threads(), select_device("cpu")
    try:
        for _ in range(2):
            assert select_device("cpu,cpu", threads=threads).memory_bytes == whole.memory_bytes // 2
            assert torch.get_num_threads() == max((threads or THREADS) // 2, 1)
    finally:
        torch.set_num_threads(before)
