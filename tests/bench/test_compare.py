"""The measuring of engines, with some that cost nothing, and the arithmetic of the benchmarks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench.compare.baselines import OURS, OURS_AVX2, REALESRGANER, TORCH, Engine, build_ncnn, build_realesrganer, runnable
from bench.compare.passes import measure_busy, measure_passes
from bench.compare.quality import measure_quality
from bench.compare.runner import Section, in_turns, measure_section
from bench.compare.worker import EngineError, workers
from bench.images.photographs import largest_difference, psnr_db
from bench.images.textures import texture
from bench.report.arithmetic import Spread, log_log_slope, ratios
from bench.results import Record, Sample, read_records
from tests.bench.fake_baselines import BLACK, BROKEN, FAST, SLOW, YARDSTICK
from tests.helpers import sample_crop

CONTEXT = {"commit": "abc"}
PHOTOGRAPH = sample_crop(24, 24, left=200, top=80)


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 9.0, 2.0]) == Spread(2.5, 1.0, 9.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_measures_take_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    assert list(in_turns({name: partial(measure, name) for name in "AB"}, 2)) == [{"A": 1.0, "B": 2.0}, {"A": 3.0, "B": 4.0}]
    assert order == ["A", "B", "A", "B"]


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_the_slope_is_the_exponent() -> None:
    pixels = [128.0**2, 256.0**2, 512.0**2]
    assert log_log_slope(pixels, [3 * n**1.05 for n in pixels]) == pytest.approx(1.05)


def test_psnr_and_largest_difference() -> None:
    black, almost = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr_db(black, almost) == 0
    assert largest_difference(black, almost) == largest_difference(almost, black) == 255
    assert psnr_db(black, black) == 100
    almost[:] = 1
    assert psnr_db(black, almost) == pytest.approx(48.13, abs=0.01)


@pytest.mark.parametrize("name", ["noise", "line art"])
def test_textures_that_are_made_are_the_same_each_time_and_full_of_detail(name: str) -> None:
    made = texture(40, 30, name)
    assert made.shape == (30, 40, 3)
    assert np.array_equal(made, texture(40, 30, name))
    assert made.std() > 50


def test_a_texture_that_is_smaller_or_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="no texture wool"):
        texture(40, 30, "wool")
    pytest.importorskip("skimage", reason="make bench installs it")
    with pytest.raises(ValueError, match="print is"):
        texture(800, 600, "print")


def test_engines_are_timed_in_turns_beside_the_yardstick() -> None:
    samples = list(measure_passes(3, PHOTOGRAPH, (FAST, SLOW), YARDSTICK))
    assert len(samples) == 3
    for sample in samples:
        assert set(sample) == {"fast, s", "slow, s", "yardstick, s", "fast, dB", "slow, dB", "yardstick, dB"}
        assert sample["slow, s"] > 0.05 > sample["fast, s"] > 0
        assert sample["slow, dB"] == 100


def test_engines_are_timed_alone_and_beside_busy_processes() -> None:
    (sample,) = measure_busy(1, PHOTOGRAPH, (0, 1), (FAST, SLOW))
    assert list(sample) == ["fast beside 0, s", "slow beside 0, s", "fast beside 1, s", "slow beside 1, s"]
    assert sample["slow beside 1, s"] > 0.05


def test_quality_is_every_engines_largest_error_and_psnr() -> None:
    samples = list(measure_quality(2, 24, 16, ["fur", "noise", "line art"], (FAST, BLACK), SLOW))
    assert len(samples) == 2, "the first was measured before the interruption"
    for sample in samples:
        assert (sample["fast, grey levels"], sample["fast, dB"]) == (0, 100)
        assert sample["black, grey levels"] > 200 > 20 > sample["black, dB"]


def test_an_engine_that_makes_another_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="another picture than fast: black"):
        list(measure_passes(1, PHOTOGRAPH, (FAST, BLACK), YARDSTICK))


def test_an_engine_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match=r"(?s)broken:.*no such engine"), workers([(BROKEN, PHOTOGRAPH)]):
        pass


def test_ncnn_runs_the_same_model() -> None:
    pytest.importorskip("ncnn", reason="make bench installs it")
    assert largest_difference(build_ncnn((24, 24))(PHOTOGRAPH), build_realesrganer((24, 24))(PHOTOGRAPH)) <= 1


@pytest.mark.parametrize(("build", "left"), [("avx2", (OURS_AVX2, TORCH, OURS)), (None, (OURS,))])
def test_without_a_build_of_ours_only_what_runs_in_its_place_is_measured(
    build: str | None, left: tuple[Engine, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.engines.winograd.best_build", lambda: build)
    assert runnable((REALESRGANER, OURS_AVX2, TORCH, OURS)) == [REALESRGANER, *left]


def section(*samples: Sample, count: int = 3) -> Section:
    return Section("passes", {"side_px": 8}, count, lambda missing: iter(samples[:missing]))


def test_an_interrupted_section_goes_on_and_a_finished_one_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    measure_section(section({"a": 1.0}), path, CONTEXT)
    record = measure_section(section({"a": 2.0}, {"a": 3.0}, {"a": 4.0}), path, CONTEXT)
    assert record.series("a") == [1.0, 2.0, 3.0]
    assert read_records(path) == {"passes": record}
    assert measure_section(section({"a": 5.0}), path, CONTEXT).series("a") == [5.0]


def test_samples_of_another_commit_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    measure_section(section({"a": 1.0}), path, CONTEXT)
    assert measure_section(section({"a": 2.0}), path, {"commit": "def"}).series("a") == [2.0]


def test_sections_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "cpu.json"
    measure_section(section({"a": 1.0}), path, CONTEXT)
    measure_section(Section("other", {}, 1, lambda _missing: iter([{"b": 2.0}])), path, CONTEXT)
    assert {name: record.samples for name, record in read_records(path).items()} == {
        "passes": [{"a": 1.0}],
        "other": [{"b": 2.0}],
    }


def test_a_quantity_that_was_not_measured_raises() -> None:
    with pytest.raises(KeyError):
        Record({}, CONTEXT, samples=[{"a": 1.0}]).series("b")
