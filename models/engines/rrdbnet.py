"""RRDBNet, the network of x4plus and its kin: built from its weights, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

from basicsr.archs.rrdbnet_arch import RRDBNet
from torch import Tensor

FLOPS_PER_BLOCK_PX = 2 * 718_848  # of one block, per pixel of the features, multiply and add counted apart
FLOPS_AROUND_BLOCKS_PX = 2 * 38_592  # of the convolutions before and after the blocks
FLOPS_UPSAMPLER_PX = 2 * 1_354_752  # of the last four


def build_rrdbnet(state_dict: Mapping[str, Tensor], scale: int) -> RRDBNet:
    """RRDBNet with as many blocks as are there, 23 or (anime) 6, loaded strictly. `scale` is 4, or 2 for x2plus."""
    blocks = len({name.split(".")[1] for name in state_dict if name.startswith("body.")})
    rrdbnet = RRDBNet(num_in_ch=3, num_out_ch=3, scale=scale, num_feat=64, num_block=blocks, num_grow_ch=32)
    rrdbnet.load_state_dict(state_dict, strict=True)
    return rrdbnet.eval().requires_grad_(False)


def flops_per_feature_px(blocks: int) -> float:
    """Work of RRDBNet with so many blocks, for one pixel of its features."""
    return flops(blocks, 1, 1)


def flops(blocks: int, body_px: int, upsampler_px: int) -> float:
    """Work of RRDBNet with so many blocks, for so many pixels of its features in the body, and after it."""
    return float((FLOPS_PER_BLOCK_PX * blocks + FLOPS_AROUND_BLOCKS_PX) * body_px + FLOPS_UPSAMPLER_PX * upsampler_px)


def feature_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """Of the features of an image of that size: x2plus works on a pixel-unshuffled half."""
    return (height, width) if scale == 4 else (-(-height // 2), -(-width // 2))
