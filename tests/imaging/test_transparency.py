"""What nobody sees decides nothing, and alpha stays alpha."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from imaging.colour import flatten_on_white
from imaging.picture import Picture, resized, stripes
from imaging.transparency import enlarge_alpha, fill_hidden
from tests.imaging.pictures import RGB, Array, H, W

GREEN = (30, 160, 60)


def disc(side: int = 41, smooth: bool = True) -> Array:
    """Alpha of a disc, antialiased or not."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (side / 3 - np.hypot(x, y) + 0.5).clip(0, 1)
    alpha: Array = np.rint((inside if smooth else inside > 0.5) * 255.0).astype(np.uint8)
    return alpha


def hidden_colours(alpha: Array) -> list[Picture]:
    """The same green picture, with one colour after the other where it is transparent."""
    noise = np.random.default_rng(1).integers(0, 256, (*alpha.shape, 3), np.uint8)
    hidden = [np.broadcast_to(np.array(color, np.uint8), noise.shape) for color in ((255, 0, 255), (0, 0, 0), GREEN)]
    return [Picture(np.where(alpha[..., None] > 0, np.array(GREEN, np.uint8), color), alpha) for color in (*hidden, noise)]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("of_gray", [False, True], ids=["rgb", "gray"])
@pytest.mark.parametrize("then", [fill_hidden, lambda picture: resized(picture, 30, 31)], ids=["filled", "resized"])
def test_colours_under_alpha_0_change_no_byte(then: object, of_gray: bool, depth: int) -> None:
    results = set()
    for picture in hidden_colours(disc()):
        if of_gray:
            picture = replace(picture, pixels=np.ascontiguousarray(picture.pixels[..., 1]))
        if depth == 16:
            assert picture.alpha is not None
            picture = Picture(picture.pixels * np.uint16(257), picture.alpha * np.uint16(257))
        result = then(picture)  # type: ignore[operator]
        results.add((result.pixels.tobytes(), result.alpha.tobytes()))
    assert len(results) == 1


def test_what_is_hidden_takes_the_colour_of_what_is_visible_and_that_stays() -> None:
    for picture in hidden_colours(disc(smooth=False)):
        assert (fill_hidden(picture).pixels == GREEN).all()
    picture = Picture(RGB, np.full((H, W), 255, np.uint8))
    assert picture.alpha is not None
    picture.alpha[3:9, 5:16] = 0
    filled = fill_hidden(picture).pixels
    assert np.array_equal(filled[picture.alpha > 0], RGB[picture.alpha > 0])
    assert np.abs(filled.astype(int) - RGB).max() < 60, "the hole closes smoothly"


def test_a_faint_picture_keeps_its_colours_and_rounding_at_an_edge_does_not_spread() -> None:
    faint = Picture(RGB, np.full((H, W), 5, np.uint8))
    assert np.array_equal(fill_hidden(faint).pixels, RGB)
    alpha = np.zeros((20, 20), np.uint8)
    alpha[:, :10], alpha[:, 10] = 255, 1
    pixels = np.full((20, 20, 3), GREEN, np.uint8)
    pixels[:, 10] = 0, 255, 0  # what premultiplied bytes give back of green at alpha 1
    assert np.abs(fill_hidden(Picture(pixels, alpha)).pixels[:, 11:].astype(int) - GREEN).max() < 20, "of 95"


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 8)])
def test_a_picture_of_which_nothing_is_visible_is_black(size: tuple[int, int]) -> None:
    picture = Picture(np.full((*size, 3), 99, np.uint8), np.zeros(size, np.uint8))
    assert not fill_hidden(picture).pixels.any()


def test_stripes_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = hidden_colours(disc())[3]
    assert picture.alpha is not None
    networks = np.random.default_rng(2).integers(0, 256, (164, 164), np.uint8)
    wide = replace(picture, pixels=picture.pixels * np.uint16(257), alpha=picture.alpha * np.uint16(257))

    def results() -> list[Array]:
        small = resized(wide, 30, 31)
        assert picture.alpha is not None and small.alpha is not None
        return [fill_hidden(picture).pixels, enlarge_alpha(picture.alpha, networks, 4), small.pixels, small.alpha]

    whole = results()
    monkeypatch.setattr("imaging.picture.STRIPE_PX", 300)
    assert len(list(stripes(41, 41))) > 3
    for ours, theirs in zip(results(), whole, strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= (1 if ours.dtype == np.uint16 else 0)


def test_shrinking_sixteen_bits_is_that_of_eight_but_finer() -> None:
    eight = resized(Picture(RGB), 11, 9).pixels
    sixteen = resized(Picture(RGB * np.uint16(257)), 11, 9).pixels
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen / 257 - eight).max() <= 1
    assert len(np.unique(sixteen % 257)) > 20


@pytest.mark.parametrize("level", [0, 5, 12, 19, 254, 255])
@pytest.mark.parametrize("depth", [8, 16])
def test_constant_alpha_stays_whatever_the_network_makes_of_it(level: int, depth: int) -> None:
    gain = 257 if depth == 16 else 1
    dtype = np.uint16 if depth == 16 else np.uint8
    alpha = np.full((9, 30), level * gain, dtype)
    alpha[:, 20:] = (255 - level) * gain
    networks: Array = np.random.default_rng(3).integers(0, 256 * gain, (36, 120)).astype(np.uint16).astype(dtype)
    enlarged = enlarge_alpha(alpha, networks, 4)
    assert enlarged.dtype == dtype
    assert (enlarged[:, :76] == level * gain).all()


def test_gradients_of_alpha_are_bicubic_and_edges_are_the_networks() -> None:
    gradient = np.tile(np.linspace(0, 200, 60).astype(np.uint8), (20, 1))
    noise = np.random.default_rng(4).integers(0, 256, (80, 240), np.uint8)
    bicubic = cv2.resize(gradient.astype(np.float32), (240, 80), interpolation=cv2.INTER_CUBIC)
    assert np.abs(enlarge_alpha(gradient, noise, 4) - bicubic).max() <= 0.51
    edge = np.zeros((20, 60), np.uint8)
    edge[:, 30:] = 255
    enlarged = enlarge_alpha(edge, noise, 4)
    assert np.array_equal(enlarged[:, 116:124], noise[:, 116:124])
    assert set(np.unique(np.delete(enlarged, np.s_[116:124], axis=1))) == {0, 255}


def test_flattening_sixteen_bits_rounds_to_the_nearest() -> None:
    values, alpha = np.random.default_rng(5).integers(0, 65536, (2, 300, 300)).astype(np.uint16)
    exact = np.round((values.astype(float) * alpha + 65535.0 * (65535.0 - alpha)) / 65535)
    np.testing.assert_array_equal(flatten_on_white(values, alpha), exact)


@pytest.mark.parametrize("least", [1, 3])
def test_a_colour_that_hardly_anybody_sees_gives_way_to_those_around(least: int) -> None:
    pixels, alpha = np.full((40, 40, 3), (255, 0, 255), np.uint8), np.full((40, 40), least, np.uint8)
    pixels[12:28, 12:28], alpha[12:28, 12:28] = (10, 200, 30), 255
    filled = fill_hidden(Picture(pixels, alpha)).pixels.astype(int)
    np.testing.assert_array_equal(filled[12:28, 12:28], pixels[12:28, 12:28])
    assert np.abs(filled[11:29, 11:29] - (10, 200, 30)).max() <= (25 if least == 1 else 120)


def test_a_glow_keeps_its_colour() -> None:
    pixels, alpha = np.full((40, 40, 3), (255, 0, 0), np.uint8), np.full((40, 40), 33, np.uint8)
    pixels[12:28, 12:28], alpha[12:28, 12:28] = 255, 255
    alpha[0, 0] = 0
    filled = fill_hidden(Picture(pixels, alpha)).pixels
    np.testing.assert_array_equal(filled, pixels)
