"""Folders, patterns, and where results go: the command line around a fake network."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command.making import make
from command.options import Parser, params_of
from command.tasks import find_tasks
from core.config import Settings
from tests.command.runs import SMALL, Run, files
from tests.helpers import encode, fake_models, sample_crop


@pytest.fixture
def photos(room: Path) -> Path:
    """A folder of two pictures and what else folders have, with another one in it."""
    photos = room / "photos"
    (photos / "more" / ".cache").mkdir(parents=True)
    for name in ("a.png", "more/b.png", ".hidden.png", ".0123.part", "more/.cache/c.png"):
        (photos / name).write_bytes(SMALL)
    (photos / "note.txt").write_text("not a picture")
    os.mkfifo(photos / "pipe")
    (photos / "more" / "loop").symlink_to("..")
    return photos


def test_a_picture_is_made_beside_the_input_and_skipped_when_it_is_there(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Run("a.png", "clear.png").status == 0
    assert Run("b.jpg", "--scale", "2").status == 0
    assert Run("b.jpg", "--scale", "1.5", "--format", "webp").status == 0
    assert {"a-4k.jpg", "clear-4k.png", "b-2x.jpg", "b-1.5x.webp"} < set(files("."))
    run = Run("a.png", "clear.png")
    assert (run.status, run.loaded) == (0, [])
    assert "clear.png: skipped, since clear-4k.png is there already" in capsys.readouterr().err


def test_force_makes_anew_what_is_there(room: Path) -> None:
    for name in ("a-2x.jpg", "clear-2x.png"):
        Path(name).write_text("older")
    assert Run("a.png", "clear.png", "--scale", "2").status == 0
    assert Path("a-2x.jpg").read_text() == "older"
    assert Run("a.png", "clear.png", "--scale", "2", "--force").status == 0
    for name in ("a-2x.jpg", "clear-2x.png"):
        assert len(Path(name).read_bytes()) > 500


def test_a_folder_stands_for_its_pictures_and_one_line_for_the_rest(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Run("photos", "-o", "out", "--scale", "2").status == 0
    assert files() == ["a.jpg"]
    assert "2 files are no PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF, and skipped" in capsys.readouterr().err


def test_folders_in_a_folder_are_kept_below_the_output_which_is_no_input_itself(photos: Path) -> None:
    for _ in range(2):
        assert Run("photos", "-r", "-o", "photos/out", "--scale", "2").status == 0
        assert files("photos/out") == ["a.jpg", "more/b.jpg"]


def test_results_beside_their_pictures_are_not_made_larger_again(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Run("photos", "--scale", "2").status == 0
    Path("photos/c-4k.jpg").write_bytes(encode(sample_crop(40, 30), "JPEG"))  # of nothing that is there
    assert Run("photos", "--scale", "3").status == 0
    made = {name for name in files("photos") if name.endswith(".jpg")}
    assert made == {"a-2x.jpg", "a-3x.jpg", "c-4k.jpg", "c-4k-3x.jpg"}
    assert "1 skipped as results of others by their names, such as photos/a-2x.jpg of photos/a.png" in capsys.readouterr().err
    assert Run("photos/a-2x.jpg", "--scale", "2").status == 0
    assert "a-2x-2x.jpg" in files("photos")


def test_a_result_whose_name_would_be_too_long_is_named(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 250
    Path(f"{name}.png").write_bytes(SMALL)
    assert Run(f"{name}.png").status == 1
    assert f"{name}.png: {name}-4k.jpg: File name too long" in capsys.readouterr().err


def test_the_same_command_again_skips_what_is_there_also_where_results_are_too_large_to_be_inputs(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert Run("photos").status == 0
    assert {name for name in files("photos") if name.endswith(".jpg")} == {"a-4k.jpg"}
    assert "over the limit" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "made"),
    [
        ("*.png", ["a.jpg", "clear.png"]),
        ("photos/*.png", ["a.jpg"]),
        ("photos/**/*.png", ["a.jpg", "more/b.jpg"]),
        ("photos/**", ["a.jpg", "more/b.jpg"]),
        ("ph*/mo[r]e/?.png", ["photos/more/b.jpg"]),
    ],
)
def test_a_quoted_pattern_finds_pictures(photos: Path, pattern: str, made: list[str]) -> None:
    assert Run(pattern, "-o", "out", "--scale", "2").status == 0
    assert files() == made


def test_a_file_with_a_wildcard_in_its_name_is_that_file(room: Path) -> None:
    Path("a[1].png").write_bytes(SMALL)
    Path("a1.png").write_bytes(SMALL)
    assert Run("a[1].png", "-o", "out", "--scale", "2").status == 0
    assert files() == ["a[1].jpg"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("empty", "empty: no picture was found; -r looks in its folders too"),
        ("*.gif", "*.gif: no picture was found"),
        ("gone.png", "gone.png: a link to nowhere.png, which is not there"),
        ("loop.png", "loop.png: Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
    ],
)
def test_where_no_picture_is_found_a_line_says_so(
    room: Path, argument: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("gone.png").symlink_to("nowhere.png")
    Path("loop.png").symlink_to("loop.png")
    run = Run(argument, "a.png", "--scale", "2")
    assert (run.status, Path("a-2x.jpg").exists()) == (1, True)
    assert words in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_one_line_and_the_others_are_made(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos.chmod(0o777)
    photos.parent.chmod(0o777)
    (photos / "more").chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        status = Run("photos", "-r", "--scale", "2").status
    finally:
        if is_root:
            os.seteuid(0)
        (photos / "more").chmod(0o755)
    assert (status, (photos / "a-2x.jpg").exists()) == (1, True)
    assert "photos/more: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["A.jpg", "a.jpg"])
def test_two_pictures_for_one_result_are_refused_whatever_the_case(
    room: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(other).write_bytes(encode(sample_crop(50, 40), "JPEG"))
    with pytest.raises(SystemExit) as end:
        Run("a.png", other)
    assert end.value.code == 2
    assert f"a.png and {other} would both become {Path(other).stem}-4k.jpg" in capsys.readouterr().err


def test_alpha_tells_results_apart(room: Path) -> None:
    Path("clear.jpg").write_bytes(encode(sample_crop(50, 40), "JPEG"))
    assert Run("clear.png", "clear.jpg", "-o", "out", "--scale", "2").status == 0
    assert files() == ["clear.jpg", "clear.png"]


def test_the_result_of_another_picture_is_not_taken_for_that_of_one_with_alpha(room: Path) -> None:
    Path("clear-2x.jpg").write_text("of clear.jpg")
    assert Run("clear.png", "--scale", "2").status == 0
    assert "clear-2x.png" in files(".")


def test_a_dry_run_says_what_would_be_made_and_does_nothing(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opaque = np.dstack([sample_crop(40, 30), np.full((30, 40), 255, np.uint8)])
    Path("photos/opaque.png").write_bytes(encode(opaque))
    before = files(".")
    run = Run("photos", "clear.png", "-o", "out", "--target", "2k", "--dry-run")
    assert (run.status, run.loaded, files("."), Path("out").exists()) == (0, [], before, False)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "photos/a.png: 60×40 → 1920×1280, passes: 4×, 4×, 2×, out/a.jpg",
        "photos/opaque.png: 40×30 → 1280×960, passes: 4×, 4×, 2×, out/opaque.jpg",
        "clear.png: 40×30 → 1280×960, passes: 4×, 4×, 2×, out/clear.png",
        "3 would be made, and nothing has been written",
    ]


def test_names_that_no_terminal_shows_are_made_and_shown_escaped(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"caf\xe9.png", b"\x1b[2J.png"):
        Path(os.fsdecode(name)).write_bytes(SMALL)
    assert Run(".", "-o", "out", "--scale", "2", "--format", "png").status == 0
    assert {os.fsencode(name) for name in files()} >= {b"caf\xe9.png", b"\x1b[2J.png"}
    shown = capsys.readouterr().err
    assert "caf\\udce9.png" in shown
    assert "\x1b" not in shown


def test_a_name_that_begins_with_a_dash(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("-x.png").write_bytes(SMALL)
    with pytest.raises(SystemExit):
        Run("-x.png")
    assert "there is no option -x.png: for the file of this name, write ./-x.png" in capsys.readouterr().err
    assert Run("./-x.png", "--scale", "2").status == 0
    assert Run("a.png", "-o", "out", "b.jpg", "--scale", "2", "--", "-x.png").status == 0
    assert files() == ["-x.jpg", "a.jpg", "b.jpg"]


def test_a_file_that_changed_since_it_was_planned_is_not_made(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Parser().read(["a.png", "-o", "out", "--scale", "2"])
    params = params_of(options)
    (task,), _ = find_tasks(options, params)
    Path("a.png").write_bytes(Path("clear.png").read_bytes())
    assert make([replace(task, image=None)], params, Settings(), lambda _: fake_models()) == 1
    assert files() == []
    assert "a.png: the file has changed since it was first read" in capsys.readouterr().err
