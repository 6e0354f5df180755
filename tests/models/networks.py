"""Networks for tests: seeded, of any size, with weights that keep the signal's size."""

from __future__ import annotations

import torch

import models  # noqa: F401 - it prepares the process

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip


def random_network(scale: int, blocks: int) -> RRDBNet:
    """RRDBNet of scale 4, or 2 for x2plus, which has no public source here but the official one."""
    torch.manual_seed(scale)
    network = RRDBNet(3, 3, scale=scale, num_feat=64, num_block=blocks, num_grow_ch=32).eval().requires_grad_(False)
    network.conv_last.weight *= 3
    network.conv_last.bias += 0.5
    return network
