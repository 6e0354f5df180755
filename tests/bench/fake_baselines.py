"""Engines that cost nothing. A module of their own, since each one's process imports what its builder is defined in."""

from __future__ import annotations

import time

import numpy as np

from bench.compare.baselines import Engine, Shape, Upscale
from bench.images.photographs import Image


def repeat_pixels(image: Image) -> Image:
    return image.repeat(4, axis=0).repeat(4, axis=1)


def build_repeating(_shape: Shape) -> Upscale:
    return repeat_pixels


def build_slow(_shape: Shape) -> Upscale:
    def upscale(image: Image) -> Image:
        time.sleep(0.05)
        return repeat_pixels(image)

    return upscale


def build_black(_shape: Shape) -> Upscale:
    return lambda image: np.zeros_like(repeat_pixels(image))


def build_broken(_shape: Shape) -> Upscale:
    raise ModuleNotFoundError("no such engine")


FAST = Engine("fast", build_repeating)
SLOW = Engine("slow", build_slow)
YARDSTICK = Engine("yardstick", build_slow)
BLACK = Engine("black", build_black)
BROKEN = Engine("broken", build_broken)
