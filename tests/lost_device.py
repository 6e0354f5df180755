"""What tests of a lost device share; `tests.helpers` does without torch, which takes seconds to import."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from model_utility import Models
from models.device_faults import device_lost_reason
from tests.helpers import FakeResolver, fake_models

REASON = "CUDA error: device-side assert triggered"


def accelerator_error(code: int = 710, text: str = "device-side assert triggered") -> torch.AcceleratorError:
    """As torch's bindings make it of a cudaError_t: the text first, then the code as an attribute."""
    advice = "CUDA kernel errors might be asynchronously reported at some other API call."
    error = torch.AcceleratorError(f"CUDA error: {text}\n{advice}")
    error.error_code = code  # type: ignore[attr-defined]
    return error


def losable_models(resolver: FakeResolver) -> Models:
    """Fake models that notice a lost device; a probe finds theirs well."""
    return replace(fake_models(resolver), device_lost_reason=partial(device_lost_reason, probe=lambda: None))
