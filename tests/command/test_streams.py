"""stdin and stdout around a fake network; the last test is a real process."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.server import ROOT
from core.config import VERSION
from tests.command.runs import SMALL, Run, files
from tests.helpers import HANG_SECONDS


class Piped:
    """One call of the command line with these streams, and what it wrote. Exit statuses of 2 count as well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: bytes = SMALL) -> None:
        with Path("stdout").open("w+b") as stdout, monkeypatch.context() as streams:
            streams.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            streams.setattr("sys.stdout", stdout)
            try:
                self.status: object = Run(*arguments).status
            except SystemExit as end:
                self.status = end.code
            stdout.seek(0)
            self.stdout = stdout.read()


@contextmanager
def terminal() -> Iterator[io.TextIOWrapper]:
    """A stream that is a terminal."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        yield stream
    os.close(master)


def test_a_picture_goes_through_a_pipe_and_nothing_else_does(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Run("a.png", "-o", "file.webp", "--scale", "2").status == 0
    piped = Piped(monkeypatch, "-", "-o", "-", "--scale", "2", "--format", "webp")
    assert (piped.status, piped.stdout) == (0, Path("file.webp").read_bytes())
    assert "stdin: 60×40 → 120×80, stdout" in capsys.readouterr().err
    plain = Piped(monkeypatch, "-", "--scale", "2", stdin=Path("clear.png").read_bytes())
    assert plain.stdout.startswith(b"\x89PNG")


def test_stdin_may_become_a_file_and_a_file_go_to_stdout(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Piped(monkeypatch, "-", "-o", "out", "--scale", "2").status == 0
    assert files() == ["stdin.jpg"]
    assert Piped(monkeypatch, "a.png", "-o", "-", "--scale", "2").stdout == Path("out/stdin.jpg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "words"),
    [
        (["-", "a.png", "-o", "-"], SMALL, 2, "-o - is one file for 2 pictures"),
        (["-"], b"no picture", 1, "stdin: The data is not an image"),
        (["-"], b"", 1, "stdin: The image is empty"),
        (["-", "--dry-run"], SMALL, 0, "stdin: 60×40 → 3840×2560, passes: 4×, 4×, 4×, stdout"),
    ],
)
def test_nothing_is_written_where_no_picture_is_made(
    room: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    stdin: bytes,
    status: int,
    words: str,
) -> None:
    piped = Piped(monkeypatch, *arguments, stdin=stdin)
    assert (piped.status, piped.stdout) == (status, b"")
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stream", "arguments", "words"),
    [
        ("stdout", ["a.png", "-o", "-"], "no picture is written to a terminal"),
        ("stdin", ["-", "-o", "out"], "- is a picture on stdin, which is the terminal here"),
    ],
)
def test_no_picture_is_written_to_a_terminal_nor_waited_for_from_one(
    room: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stream: str,
    arguments: list[str],
    words: str,
) -> None:
    with terminal() as opened, monkeypatch.context() as streams, pytest.raises(SystemExit) as end:
        streams.setattr(f"sys.{stream}", opened)
        Run(*arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_a_reader_that_has_gone_is_one_line_and_status_1(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as gone:
        with monkeypatch.context() as streams:
            streams.setattr("sys.stdout", gone)
            assert Run("a.png", "-o", "-", "--scale", "2").status == 1
        assert capsys.readouterr().err == "a.png: stdout cannot be written: Broken pipe\n"


def test_closed_streams_of_a_real_process(room: Path) -> None:
    script = "import sys, cli; from tests.helpers import fake_models; sys.exit(cli.main(None, lambda _: fake_models()))"
    for redirection, status, words in (
        ("-o - >&-", 2, "stdout, which is closed"),
        ("2>&-", 0, ""),
        ("-o - | true", 0, "Broken"),
    ):
        command = ["bash", "-c", f'"$0" -c "$1" a.png --scale 2 {redirection}', sys.executable, script]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)  # noqa: S603
        assert (ended.returncode, ended.stdout) == (status, ""), ended.stderr
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
    assert "a-2x.jpg" in files(".")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        Run("--version")
    assert (end.value.code, capsys.readouterr().out) == (0, f"cli.py {VERSION}\n")
