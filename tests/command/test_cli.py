"""The command line around a fake network; test_e2e.py runs it with the real one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import cli
from bench.server import ROOT
from command import options
from command.inputs import Source
from command.making import make
from command.options import Parser
from command.tasks import find_tasks
from core.config import ConfigError, Settings
from core.progress import Progress
from core.progress_bar import ProgressBar
from model_utility import Models, WeightsError
from schemas.params import PARAMS, UpscaleParams
from tests.command.runs import SMALL, Run, files
from tests.helpers import HANG_SECONDS, FakeResolver, encode, fake_models, sample_crop


def params_of(*arguments: str) -> UpscaleParams:
    return options.params_of(Parser().read(["a.png", *arguments]))


def test_pictures_are_made_in_a_folder_under_their_own_names(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("a.png", "b.jpg", "clear.png", "-o", "out/new", "--target", "2K")
    assert (run.status, len(run.loaded)) == (0, 1)
    assert files("out/new") == ["a.jpg", "b.jpg", "clear.png"]
    with Image.open("out/new/a.jpg") as image:
        assert (image.size, image.format) == ((1920, 1280), "JPEG")
    with Image.open("out/new/clear.png") as image:
        assert image.mode == "RGBA"
    output = capsys.readouterr()
    assert output.out == ""
    assert [line.split(":")[0] for line in output.err.splitlines()] == ["a.png", "b.jpg", "clear.png"]
    assert "60×40 → 1920×1280, out/new/a.jpg" in output.err


def test_one_picture_may_be_given_a_file(room: Path) -> None:
    assert Run("a.png", "-o", "larger.webp", "--target", "2k", "--fit", "exact").status == 0
    with Image.open("larger.webp") as image:
        assert (image.format, image.size) == ("WEBP", (2048, 1365))


def test_a_factor_takes_the_place_of_a_target(room: Path) -> None:
    assert Run("a.png", "-o", "larger.png", "--scale", "1.5").status == 0
    with Image.open("larger.png") as image:
        assert image.size == (90, 60)


def test_options_reach_the_pipeline(room: Path) -> None:
    anime = FakeResolver()
    models = replace(fake_models(), super_resolvers={"anime": anime})  # type: ignore[dict-item]
    run = Run("a.png", "-o", "out", "--target", "2k", "--format", "webp", "--model", "anime", "--device", "cpu", models=models)
    assert (run.status, run.loaded[0].device, files()) == (0, "cpu", ["a.webp"])
    assert anime.entered.is_set()


@pytest.mark.parametrize("device", ["all", "ray", "cuda:0,cuda:1", "cpu,cpu"])
def test_several_devices_are_for_the_service(room: Path, capsys: pytest.CaptureFixture[str], device: str) -> None:
    with pytest.raises(SystemExit) as end:
        Run("a.png", "-o", "out", "--device", device)
    assert end.value.code == 2
    assert f"--device must be auto, cpu, cuda or cuda:N, not '{device}'" in capsys.readouterr().err


def test_denoise_reaches_the_fast_model_and_no_other(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strengths: list[float] = []

    def at(denoise: float) -> FakeResolver:
        strengths.append(denoise)
        return FakeResolver()

    fast: Any = SimpleNamespace(can_mix=True, at=at)
    models = replace(fake_models(), fast={"photo_fast": fast})
    run = Run("a.png", "-o", "out", "--target", "2k", "--model", "photo_fast", "--denoise", "0.5", models=models)
    assert (run.status, set(strengths)) == (0, {0.5})
    with pytest.raises(SystemExit):
        Run("b.jpg", "-o", "out", "--target", "2k", "--denoise", "0.5", models=models)
    assert "--denoise is for the model photo_fast" in capsys.readouterr().err


class Terminal(io.StringIO):
    """What bars are shown on."""

    def isatty(self) -> bool:
        return True


def test_a_bar_goes_to_its_end_and_no_further_when_faces_are_found_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    seen = []
    with ProgressBar("a.png", 100.0) as bar:
        for step, more in ((10, 400), (100, 0), (200, 0), (150, 0), (50, 0)):
            bar.advance(step)
            seen.append(round(100 * bar.n / bar.total))
            bar.add_work(more)
        assert (bar.n, bar.left) == (bar.total, 0)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (10, 100)


def test_a_bar_shows_the_share_that_is_done_in_however_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with ProgressBar("a.png", 30_000.0) as bar:
        seen = []
        for step in range(1, 30_001):
            bar.advance(1.0)
            if step % 7500 == 0:
                seen.append(round(100 * bar.n / bar.total))
    assert seen == [25, 50, 75, 100]


def test_pictures_show_bars_of_their_own_and_one_of_all(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert Run("a.png", "note.jpg", "b.jpg", "-o", "out", "--target", "2k").status == 1
    shown = terminal.getvalue()
    for text in ("a.png 60×40 → 1920×1280", "b.jpg 50×40 → 1600×1280", "2 pictures", "100 %"):
        assert text in shown
    assert "Warning" not in shown


def test_a_picture_that_is_named_twice_is_made_once(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Run("a.png", "./a.png", "-o", "out", "--target", "2k").status == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_in_the_place_of_a_result_fails_that_picture_before_any_work(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/a.jpg").mkdir(parents=True)
    run = Run("a.png", "-o", "out", "--target", "2k")
    assert (run.status, run.loaded) == (1, [])
    assert "a.png: out/a.jpg, where the result belongs, is a folder" in capsys.readouterr().err


def test_the_longest_name_that_a_file_may_have_is_no_problem(room: Path) -> None:
    name = "x" * 251
    Path("a.png").rename(f"{name}.png")
    assert Run(f"{name}.png", "-o", "out", "--target", "2k").status == 0
    assert files() == [f"{name}.jpg"]


def test_every_field_of_a_request_is_an_option() -> None:
    expected = {name: schema.get("default") for name, schema in PARAMS.items() if name != "webhook"}  # which is of jobs
    assert set(options.FLAGS) == set(expected)
    defaults = params_of().model_dump()
    assert {name: defaults[name] for name in expected} == expected
    assert params_of("--no-faces").enhance_faces is False


def test_a_picture_that_fails_is_named_and_does_not_stop_the_others(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("torn.png").write_bytes(encode(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))[:-2000])
    Path("wide.png").write_bytes(encode(np.zeros((2, 1025), np.uint8)))
    run = Run("note.jpg", "none.png", "wide.png", "torn.png", "a.png", "-o", "out", "--target", "2k")
    assert (run.status, files()) == (1, ["a.jpg"])
    errors = capsys.readouterr().err
    for name, words in {
        "note.jpg": "not an image",
        "none.png": "No such file",
        "wide.png": "1024 px",
        "torn.png": "",
    }.items():
        (line,) = [line for line in errors.splitlines() if line.startswith(f"{name}: ")]
        assert words in line, line


def test_a_local_file_may_be_of_any_size(room: Path) -> None:
    Path("large.bmp").write_bytes(encode(sample_crop(60, 40), "BMP") + bytes(8_000_793))
    assert (Run("large.bmp", "-o", "out", "--target", "2k").status, files()) == (0, ["large.jpg"])


def test_a_device_that_is_lost_ends_the_run_and_what_is_done_is_kept(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Lost(FakeResolver):
        def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
            if files():
                raise RuntimeError("CUDA error: unspecified launch failure")
            return super().super_resolve(image, scale, progress)

    models = replace(fake_models(Lost()), device_lost_reason=lambda error: str(error))
    run = Run("a.png", "b.jpg", "clear.png", "-o", "out", "--target", "2k", models=models)
    assert (run.status, files()) == (1, ["a.jpg"])
    done, failed = capsys.readouterr().err.splitlines()
    assert done.startswith("a.png: ")
    assert failed.startswith("The device has failed: CUDA error: unspecified launch failure. Start the same command again")


def test_what_is_there_is_skipped_and_nothing_is_loaded_for_nothing(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Run("a.png", "-o", "out", "--target", "2k").status == 0
    before = Path("out/a.jpg").stat()
    run = Run("a.png", "b.jpg", "-o", "out", "--target", "2k")
    assert (run.status, len(run.loaded), files()) == (0, 1, ["a.jpg", "b.jpg"])
    assert Path("out/a.jpg").stat().st_mtime_ns == before.st_mtime_ns
    assert "a.png: skipped, since out/a.jpg is there already" in capsys.readouterr().err
    again = Run("a.png", "b.jpg", "-o", "out", "--target", "2k")
    assert (again.status, again.loaded) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["a.png", "-o", "out.gif"], "out.gif"),
        (["a.png", "-o", "nowhere/out.png"], "nowhere"),
        (["a.png", "-o", "note.jpg/"], "note.jpg"),
        (["a.png", "b.jpg", "-o", "out.png"], "2 pictures"),
        (["a.png", "-o", "out.png", "--format", "webp"], "--format"),
        (["a.png", "a.jpg", "-o", "out"], "a.png and a.jpg would both become out/a.jpg"),
        (["b.jpg", "-o", "."], "itself an input"),
        (["a.png", "-o", "out", "--quality", "101"], "--quality must be from 1 to 100, not 101"),
        (["a.png", "-o", "out", "--quality", "high"], "--quality"),
        (["a.png", "-o", "out", "--target", "3k"], "--target must be one of 2k, 4k, 8k, not '3k'"),
        (["a.png", "-o", "out", "--face-strength", "nan"], "--face-strength must be from 0 to 1"),
        (["a.png", "-o", "out", "--model", "x"], "photo, anime"),
        (["a.png", "-o", "out", "--scale", "1"], "--scale must be above 1 and at most 16, not 1.0"),
        (["a.png", "-o", "out", "--scale", "nan"], "--scale must be above 1 and at most 16"),
        (["a.png", "-o", "out", "--scale", "2", "--target", "4k"], "--scale and --target cannot be given together"),
        (["a.png", "-o", "out", "--fit", "passes", "--scale", "2"], "--scale and --fit cannot be given together"),
        (["a.png", "-o", ""], "-o is empty"),
        (["a.png", "-o", "/proc"], "no file can be written in /proc:"),
        (["a.png", "-o", "/proc/a.jpg"], "no file can be written in /proc:"),
        (["a.png", "-o", "nowhere/a.jpg"], "there is no folder nowhere"),
        (["-o", "out"], "picture"),
    ],
)
def test_wrong_arguments_end_with_2_before_any_work(
    room: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.jpg").write_bytes(encode(sample_crop(50, 40), "JPEG"))
    with pytest.raises(SystemExit) as end:
        Run(*arguments)
    assert end.value.code == 2
    assert named in capsys.readouterr().err
    assert not Path("out").exists() or files() == []


def test_a_device_that_is_none_ends_with_2_and_missing_weights_with_1(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        Run("a.png", "-o", "out", "--device", "tpu")
    assert end.value.code == 2
    assert "--device must be auto, cpu, cuda or cuda:N, not 'tpu'" in capsys.readouterr().err

    def load(error: Exception) -> int:
        def fail(_: Settings) -> Models:
            raise error

        return cli.main(["a.png", "-o", "out"], fail)

    assert load(WeightsError("x4.pth is missing")) == 1
    assert "x4.pth is missing" in capsys.readouterr().err
    assert load(ConfigError("DEVICE=cuda, but there is none")) == 2


def test_the_next_picture_is_decoded_while_one_runs(room: Path) -> None:
    read_again = threading.Event()
    os.mkfifo("fifo")

    class Waiting(FakeResolver):
        def super_resolve(self, *arguments: object) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
            assert read_again.wait(HANG_SECONDS), "the next picture was not asked for"
            return super().super_resolve(*arguments)  # type: ignore[arg-type]

    def feed() -> None:
        Path("fifo").write_bytes(SMALL)  # returns when somebody reads
        read_again.set()

    params = params_of("--target", "2k", "-o", "out")
    (first,), _ = find_tasks(Parser().read(["a.png", "-o", "out"]), params)
    source = Source(Path("fifo"), Path("fifo"))
    second = replace(first, source=source, results={"jpeg": Path("out/second.jpg")}, image=None)
    feeder = threading.Thread(target=feed)
    feeder.start()
    assert make([first, second], params, Settings(), lambda _: fake_models(Waiting())) == 0
    feeder.join()
    assert files() == ["a.jpg", "second.jpg"]


def test_ctrl_c_ends_with_130_keeps_what_is_done_and_leaves_no_half_file(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(FakeResolver):
        def super_resolve(self, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], *rest: object) -> object:  # type: ignore[override]
            if image.shape[1] % 50 == 0:  # b.jpg
                raise KeyboardInterrupt
            return super().super_resolve(image, *rest)  # type: ignore[arg-type]

    run = Run("a.png", "b.jpg", "-o", "out", "--target", "2k", models=fake_models(Interrupted()))
    assert (run.status, files()) == (130, ["a.jpg"])
    assert "Stopped" in capsys.readouterr().err


def test_ctrl_c_in_the_engine_itself_ends_the_pass() -> None:
    """It comes while C runs, and Python would see it first in a callback, from which no exception gets out."""
    script = """
import os, signal, sys, threading, time
import numpy as np
import models
from command import making
from core.progress_bar import ProgressBar
from basicsr.archs.rrdbnet_arch import RRDBNet
from models.device import select_device
from models.super_resolution import SuperResolver

signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests are started
resolver = SuperResolver({4: RRDBNet(3, 3, scale=4, num_block=6).requires_grad_(False)}, select_device("cpu"))
bar = ProgressBar("", 1.0, hidden=True)
resolver.super_resolve(np.zeros((8, 8, 3), np.uint8), 4, bar)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    with making._interrupted_between_steps(bar):
        resolver.super_resolve(np.zeros((900, 900, 3), np.uint8), 4, bar)
except KeyboardInterrupt:
    sys.stdout.write(str(signal.getsignal(signal.SIGINT) is signal.default_int_handler))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert (run.stdout, run.returncode) == ("True", 0), run.stderr


def test_a_folder_that_refuses_is_one_line_and_leaves_no_half_file(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class InTheWay(FakeResolver):
        def super_resolve(self, *arguments: object) -> object:  # type: ignore[override]
            Path("out/a.jpg").mkdir(exist_ok=True)
            return super().super_resolve(*arguments)  # type: ignore[arg-type]

    run = Run("a.png", "-o", "out", "--target", "2k", models=fake_models(InTheWay()))
    assert (run.status, files()) == (1, [])
    assert "a.png: out/a.jpg cannot be written: Is a directory" in capsys.readouterr().err


def test_a_number_that_is_none_is_named_with_what_would_be_right(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Run("a.png", "-o", "out", "--quality", "abc")
    assert "--quality must be a whole number, not the string" in capsys.readouterr().err


def test_the_pixels_decide_whether_there_is_alpha(room: Path) -> None:
    opaque = np.dstack([sample_crop(40, 30), np.full((30, 40), 255, np.uint8)])
    Path("opaque.png").write_bytes(encode(opaque))
    assert Run("opaque.png", "clear.png", "-o", "out", "--target", "2k").status == 0
    assert files() == ["clear.png", "opaque.jpg"]
