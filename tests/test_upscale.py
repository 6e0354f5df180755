"""The plan, for every row of the contract's tables; and the pipeline around fakes."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from bench.server import SAMPLE
from core.config import Fit, TargetResolution
from core.errors import DeviceLost, ImageTooLarge, JobCancelled
from core.progress import NullProgress
from imaging.picture import Array, Picture
from model_utility import Models, ModelStatus
from schemas.params import UpscaleParams
from schemas.plan import Plan, Size, max_input_px, plan_scale, plan_upscale
from tests.helpers import FakeResolver, decode, fake_models, sample_crop
from upscale import PipelineOutput, Upscaler
from workers.task import DeviceTask

WITHOUT_FACES = UpscaleParams(enhance_faces=False)


def run(models: Models, picture: Picture, plan: Plan, params: UpscaleParams = UpscaleParams()) -> PipelineOutput:  # noqa: B008 - frozen
    return Upscaler(models).run(picture, plan, params, NullProgress())


@pytest.mark.parametrize(
    ("size", "target", "passes", "output"),
    [
        ((480, 300), "2k", (4,), (1920, 1200)),
        ((513, 513), "2k", (2,), (1026, 1026)),
        ((64, 64), "2k", (4, 4, 2), (2048, 2048)),
        ((100, 50), "2k", (4, 4), (1600, 800)),
        ((960, 540), "4k", (4,), (3840, 2160)),
        ((961, 540), "4k", (2,), (1922, 1080)),
        ((480, 270), "4k", (4, 2), (3840, 2160)),
        ((30, 30), "8k", (4, 4, 4), (1920, 1920)),
        ((3840, 2160), "8k", (2,), (7680, 4320)),
        ((512, 1), "2k", (4,), (2048, 4)),
        ((1024, 1024), "2k", (2,), (2048, 2048)),
        ((1, 1), "4k", (4, 4, 4), (64, 64)),
        ((1, 1920), "4k", (2,), (2, 3840)),
    ],
)
def test_passes_stay_within_the_target(
    size: tuple[int, int], target: TargetResolution, passes: tuple[Literal[2, 4], ...], output: tuple[int, int]
) -> None:
    plan = plan_upscale(Size(*size), target)
    assert plan == Plan(Size(*size), target, passes, Size(*output))
    assert plan.total_scale == np.prod(passes)


@pytest.mark.parametrize(("target", "limit"), [("2k", 1024), ("4k", 1920), ("8k", 3840)])
def test_a_long_side_over_the_limit_is_refused_with_both_figures(target: TargetResolution, limit: int) -> None:
    assert max_input_px(target) == limit
    assert plan_upscale(Size(limit, 10), target).passes == (2,)
    with pytest.raises(ImageTooLarge, match=rf"{limit + 1} px .* {limit} px"):
        plan_upscale(Size(limit + 1, 10), target)


@pytest.mark.parametrize(
    ("size", "target", "passes", "output"),
    [
        ((1024, 768), "2k", (2,), (2048, 1536)),
        ((513, 513), "2k", (4,), (2048, 2048)),
        ((1500, 1000), "2k", (2,), (2048, 1365)),
        ((2047, 3), "2k", (2,), (2048, 3)),
        ((3, 2047), "2k", (2,), (3, 2048)),
        ((64, 64), "2k", (4, 4, 2), (2048, 2048)),
        ((100, 50), "2k", (4, 4, 2), (2048, 1024)),
        ((961, 540), "4k", (4,), (3840, 2158)),
        ((7679, 1), "8k", (2,), (7680, 1)),
    ],
)
def test_exact_fit_ends_on_the_target(
    size: tuple[int, int], target: TargetResolution, passes: tuple[Literal[2, 4], ...], output: tuple[int, int]
) -> None:
    plan = plan_upscale(Size(*size), target, "exact")
    assert (plan.passes, plan.output, plan.warnings) == (passes, Size(*output), ())
    assert plan.total_scale == max(output) / max(size)


def test_exact_fit_out_of_reach_of_three_passes_says_so() -> None:
    plan = plan_upscale(Size(30, 20), "8k", "exact")
    assert (plan.passes, plan.output, plan.total_scale) == ((4, 4, 4), Size(1920, 1280), 64.0)
    assert "1920 px" in plan.warnings[0]
    assert "7680 px" in plan.warnings[0]


@pytest.mark.parametrize(
    ("size", "scale", "passes", "output"),
    [
        ((480, 300), 2, (2,), (960, 600)),
        ((480, 300), 3, (4,), (1440, 900)),
        ((480, 300), 4, (4,), (1920, 1200)),
        ((480, 300), 1.5, (2,), (720, 450)),
        ((480, 300), 5, (4, 2), (2400, 1500)),
        ((480, 300), 8, (4, 2), (3840, 2400)),
        ((480, 300), 10, (4, 4), (4800, 3000)),
        ((480, 300), 16, (4, 4), (7680, 4800)),
        ((3840, 1), 2, (2,), (7680, 2)),
        ((10, 1), 1.1, (2,), (11, 1)),  # in binary, 11.000000000000002
        ((100, 30), 1.15, (2,), (115, 34)),  # 34.5: to the even one
        ((1, 1), 1.2, (2,), (1, 1)),
        ((7679, 1), 1.0001, (2,), (7680, 1)),
    ],
)
def test_a_scale_is_reached_exactly_by_the_fewest_passes(
    size: tuple[int, int], scale: float, passes: tuple[Literal[2, 4], ...], output: tuple[int, int]
) -> None:
    plan = plan_scale(Size(*size), scale)
    assert plan == Plan(Size(*size), None, passes, Size(*output))
    assert plan.total_scale == max(output) / max(size)


def test_any_scale_gives_its_size_or_names_the_largest_that_fits() -> None:
    random = np.random.default_rng(0)
    for long, short, scale in zip(
        random.integers(1, 9000, 2000), random.integers(1, 400, 2000), random.uniform(1, 16, 2000).round(3), strict=True
    ):
        size = Size(int(long), int(short))
        scale = max(float(scale), 1.001)
        expected = [max(round(Decimal(side) * Decimal(str(scale))), 1) for side in (size.width, size.height)]
        if size.long_side * Decimal(str(scale)) <= Decimal("7680.5"):
            plan = plan_scale(size, scale)
            assert [plan.output.width, plan.output.height] == expected
            assert math.prod(plan.passes) / 4 < scale <= math.prod(plan.passes)
            continue
        with pytest.raises(ImageTooLarge) as caught:
            plan_scale(size, scale)
        largest = caught.value.details["max_scale"]
        assert isinstance(largest, float)
        if largest > 1:
            assert f"the largest scale that fits is {largest:g}." in caught.value.message
            assert plan_scale(size, largest).output.long_side <= 7680
        else:
            assert "no scale above 1 fits" in caught.value.message
            assert size.long_side >= 7680


def test_exact_fit_refuses_what_is_already_there() -> None:
    with pytest.raises(ImageTooLarge, match="2047 px"):
        plan_upscale(Size(2048, 1), "2k", "exact")


def test_pixels_alpha_and_profile_go_through_every_pass() -> None:
    pixels, alpha = sample_crop(20, 10), np.full((10, 20), 255, np.uint8)
    alpha[3:, 4:] = 100
    picture = Picture(pixels, alpha, b"profile", b"cicp")
    upscaled = run(fake_models(), picture, plan_upscale(Size(20, 10), "2k"))
    assert np.array_equal(upscaled.picture.pixels, pixels.repeat(64, 0).repeat(64, 1))
    assert upscaled.picture.alpha is not None
    assert np.array_equal(upscaled.picture.alpha, alpha.repeat(64, 0).repeat(64, 1))
    assert (upscaled.picture.icc_profile, upscaled.picture.cicp) == (b"profile", b"cicp")


@pytest.mark.parametrize("fit", ["passes", "exact"])
def test_colours_under_alpha_0_reach_neither_pixels_nor_the_search_for_faces(fit: Fit) -> None:
    alpha = np.zeros((300, 500), np.uint8)
    alpha[50:250, 99:300] = 255
    alpha[:, 310:330] = 7
    searched, results = set(), set()
    models = fake_models()

    def detect(image: Array) -> list[object]:
        searched.add(image.tobytes())
        return []

    detector = SimpleNamespace(detect=detect, flops=lambda _height, _width: 0.0)
    models = replace(models, face_detector=detector)  # type: ignore[arg-type]
    for hidden in (0, 255, 90):
        pixels = np.full((300, 500, 3), (30, 160, 60), np.uint8)
        pixels[alpha == 0] = hidden, 0, hidden
        picture = run(models, Picture(pixels, alpha), plan_upscale(Size(500, 300), "2k", fit)).picture
        assert picture.alpha is not None
        results.add((picture.pixels.tobytes(), picture.alpha.tobytes()))
    assert len(searched) == len(results) == 1


def test_sixteen_bits_go_through_every_pass() -> None:
    noise = np.random.default_rng(1).integers(0, 65536, (10, 20, 4), np.uint16)
    upscaled = run(fake_models(), Picture(noise[..., :3], noise[..., 3]), plan_upscale(Size(20, 10), "2k", "exact")).picture
    assert upscaled.alpha is not None
    assert upscaled.pixels.dtype == upscaled.alpha.dtype == np.uint16
    assert len(np.unique(upscaled.pixels)) > 500


def test_exact_fit_shrinks_pixels_and_alpha_alike() -> None:
    plan = plan_upscale(Size(1500, 1000), "2k", "exact")
    picture = Picture(np.full((1000, 1500), 7, np.uint8), np.full((1000, 1500), 9, np.uint8))
    upscaled = run(fake_models(), picture, plan, WITHOUT_FACES).picture
    assert upscaled.alpha is not None
    assert upscaled.pixels.shape == upscaled.alpha.shape == (1365, 2048)
    assert (upscaled.pixels == 7).all()
    assert (upscaled.alpha == 9).all()


def test_work_adds_up_to_what_was_announced() -> None:
    upscaler, task = Upscaler(fake_models()), DeviceTask(0)
    plan = plan_upscale(Size(20, 10), "2k")
    upscaler.run(Picture(sample_crop(20, 10), np.zeros((10, 20), np.uint8)), plan, UpscaleParams(), task)
    assert task.done == upscaler.work(plan, has_alpha=True, enhance_faces=True) == 2 * 200 * (1 + 16 + 256)


def test_boxes_of_faces_are_whole_pixels_within_the_picture() -> None:
    found = [SimpleNamespace(box=(-3.2, 1.6, 22.4, 9.4)), SimpleNamespace(box=(2.5, -0.4, 7.51, 31.0))]
    detector = SimpleNamespace(detect=lambda _image: found, flops=lambda _height, _width: 0.0)
    status = {"face_restoration": ModelStatus(reason="b.pth is missing")}
    models = replace(fake_models(), face_detector=detector, face_restorer=None, status=status)  # type: ignore[arg-type]
    upscaled = run(models, Picture(sample_crop(20, 10)), plan_upscale(Size(20, 10), "2k"))
    assert upscaled.faces == ((0, 2, 20, 9), (2, 0, 8, 10))


def test_every_pass_of_pixels_and_alpha_runs_the_model_that_was_asked_for() -> None:
    photo, anime = FakeResolver(), FakeResolver()
    models = replace(fake_models(), super_resolvers={"photo": photo, "anime": anime})  # type: ignore[dict-item]
    picture = Picture(sample_crop(20, 10), np.zeros((10, 20), np.uint8))
    fits: tuple[Fit, ...] = ("passes", "exact")
    for fit in fits:
        plan = plan_upscale(Size(20, 10), "2k", fit, "anime")
        assert run(models, picture, plan).picture.width == plan.output.width
    assert (photo.entered.is_set(), anime.entered.is_set()) == (False, True)


def test_missing_face_models_are_never_silent() -> None:
    status = {
        "face_detection": ModelStatus(reason="a.pth is missing"),
        "face_restoration": ModelStatus(reason="b.pth is missing"),
    }
    models = Models({"photo": FakeResolver()}, status=status)  # type: ignore[dict-item]
    upscaled = run(models, Picture(sample_crop(20, 10)), plan_upscale(Size(20, 10), "2k"))
    assert (upscaled.faces, upscaled.faces_enhanced) == ((), False)
    assert upscaled.warnings == (
        "Faces were not searched for: a.pth is missing.",
        "Faces were not restored: b.pth is missing.",
    )
    assert run(models, Picture(sample_crop(20, 10)), plan_upscale(Size(20, 10), "2k"), WITHOUT_FACES).warnings == ()


def test_a_cancelled_task_ends_at_the_next_step() -> None:
    resolver, task = FakeResolver(), DeviceTask(1)
    task.cancel()
    upscaler = Upscaler(fake_models(resolver))
    with pytest.raises(JobCancelled):
        upscaler.run(Picture(sample_crop(20, 10)), plan_upscale(Size(20, 10), "2k"), UpscaleParams(), task)
    assert not resolver.entered.is_set()


def test_what_the_models_raise_of_a_lost_device_becomes_one_error_with_its_reason() -> None:
    broken = FakeResolver(error=RuntimeError("CUDA error: unspecified launch failure\nadvice"))
    models = replace(fake_models(broken), device_lost_reason=lambda error: str(error).splitlines()[0])
    picture = Picture(np.zeros((10, 10, 3), np.uint8))
    for work in (
        lambda: run(models, picture, plan_upscale(Size(10, 10), "2k")),
        lambda: Upscaler(models).warm_up(8, NullProgress()),
    ):
        with pytest.raises(DeviceLost) as caught:
            work()
        assert caught.value.reason == "CUDA error: unspecified launch failure"
        assert caught.value.__cause__ is broken.error
    with pytest.raises(RuntimeError, match="advice"):
        run(fake_models(broken), picture, plan_upscale(Size(10, 10), "2k"))


def test_the_sample_is_a_photograph_that_two_k_takes_in_one_pass() -> None:
    picture, warnings = decode(SAMPLE.read_bytes())
    assert (plan_upscale(Size(picture.width, picture.height), "2k").passes, warnings) == ((4,), [])
