"""Files of weights, read and never executed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read an official or a converted weights file; never executes what it holds.

    Raises:
        OSError, RuntimeError, pickle.UnpicklingError: the file is not a weights file of torch.
    """
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("params_ema", "params"):
        loaded = loaded.get(key, loaded)
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
