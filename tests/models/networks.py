"""Networks for tests: seeded, of any size, with weights that keep the signal's size; and the steps of their passes."""

from __future__ import annotations

import sys

import torch

import models  # noqa: F401 - it prepares the process
from core.progress import NullProgress

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip
from realesrgan.archs.srvgg_arch import SRVGGNetCompact  # isort: skip


def random_network(scale: int, blocks: int) -> RRDBNet:
    """RRDBNet of scale 4, or 2 for x2plus, which has no public source here but the official one."""
    torch.manual_seed(scale)
    network = RRDBNet(3, 3, scale=scale, num_feat=64, num_block=blocks, num_grow_ch=32).eval().requires_grad_(False)
    network.conv_last.weight *= 3
    network.conv_last.bias += 0.5
    return network


def random_compact(seed: int, convolutions: int = 34) -> dict[str, torch.Tensor]:
    """The weights of an SRVGGNetCompact, of general-x4v3's shape, which has no public source here but the official one."""
    torch.manual_seed(seed)
    network = SRVGGNetCompact(num_conv=convolutions - 2, upscale=4, act_type="prelu")
    for layer in network.body:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, a=0.25)
            torch.nn.init.uniform_(layer.get_parameter("bias"), -0.1, 0.1)
        else:
            torch.nn.init.uniform_(layer.weight, -0.1, 0.6)
    network.body[-1].weight.data *= 0.1
    return dict(network.state_dict())


class Steps(NullProgress):
    """Notes the work of each step, and ends the task at the one after `most`."""

    def __init__(self, most: int = sys.maxsize) -> None:
        self.works: list[float] = []
        self._most = most

    def advance(self, work: float) -> None:
        if len(self.works) == self._most:
            raise InterruptedError
        self.works.append(work)
