"""All files of a manifest: mirrors, fallbacks, the summary, the command."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.server import ROOT
from core.host import unusable_folder
from tests.helpers import HANG_SECONDS, wait_until
from tests.weights.file_server import DATA, PATIENT, FileServer, Handler, Run, a_file, cut, rest, stall, status, whole
from weights.fetch import fetch_all

FETCH = [sys.executable, "-m", "weights.fetch"]


def test_mirror_is_asked_first(server: FileServer, nowhere: str, tmp_path: Path) -> None:
    server.script["/company/net.pth"] = [whole()]
    run = Run(tmp_path, a_file(f"{nowhere}/official"), mirror=server.url("/company/"))
    assert run.folder == {"net.pth": DATA}
    assert run.said("does not answer") == 0


def test_official_release_serves_where_the_mirror_has_not_the_file(server: FileServer, tmp_path: Path) -> None:
    server.script["/official/net.pth"] = [whole()]
    run = Run(tmp_path, a_file(server.url("/official/net.pth")), mirror=server.url("/company"))
    assert run.folder == {"net.pth": DATA}
    assert [path for path, _ in server.asked] == ["/company/net.pth", "/official/net.pth"]


def test_password_of_the_mirror_is_never_shown(server: FileServer, tmp_path: Path) -> None:
    mirror = server.url("/company").replace("http://", "http://user:secret@")
    run = Run(tmp_path, a_file(server.url("/official/net.pth")), mirror=mirror)
    assert run.said("/company/net.pth") == 1
    assert run.said("secret") == 0


@pytest.mark.parametrize("mirror", ["mirror.example/weights", "ftp://mirror.example", "http://[", "http://a b\n"])
def test_mirror_that_is_no_address_is_one_clear_line(server: FileServer, tmp_path: Path, mirror: str) -> None:
    server.script["/net.pth"] = [whole()]
    run = Run(tmp_path, a_file(server.url("/net.pth")), mirror=mirror)
    assert run.folder == {"net.pth": DATA}
    assert len(run.lines) == 4  # asked for, refused; asked for, done


def test_fallback_is_fetched_only_where_the_better_file_could_not_be_had(server: FileServer, tmp_path: Path) -> None:
    server.script = {"/large.pth": [status(404), whole()], "/small.pth": [whole()]}
    large = a_file(server.url("/large.pth"), name="large.pth")
    small = a_file(server.url("/small.pth"), name="small.pth", fallback_for="large.pth")
    assert Run(tmp_path / "without", large, small).have == {"large.pth": False, "small.pth": True}
    assert Run(tmp_path / "with", large, small).have == {"large.pth": True}


def test_summary_says_what_a_missing_file_means_and_where_to_get_it(nowhere: str, tmp_path: Path) -> None:
    run = Run(tmp_path, a_file(f"{nowhere}/net.pth", required=True))
    missing = run.summary[1]
    assert missing.startswith("MISSING AND REQUIRED: net.pth. Without it the tests fail.")
    assert f"{nowhere}/net.pth" in missing
    assert "WEIGHTS_MIRROR" in run.summary[2]


def test_two_runs_in_one_folder_do_not_disturb_each_other(server: FileServer, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=HANG_SECONDS)

    def halves(handler: Handler) -> None:
        handler.head(200, Content_Length=len(DATA))
        handler.wfile.write(DATA[:1000])
        both.wait()
        handler.wfile.write(DATA[1000:])

    server.script["/net.pth"] = [halves]
    manifest = {"net.pth": a_file(server.url("/net.pth"))}
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(fetch_all, manifest, tmp_path, patience=PATIENT, say=lambda line: None) for _ in range(2)]
    assert [run.result() for run in runs] == [{"net.pth": True}] * 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"net.pth": DATA}
    assert len(server.asked) == 2


def test_command_fails_where_the_required_file_cannot_be_had(tmp_path: Path) -> None:
    done = fetch(WEIGHTS_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == ""
    assert "MISSING AND REQUIRED: RealESRGAN_x4plus.pth" in done.stdout
    assert list(tmp_path.iterdir()) == []


HOOKS = """
import os, pathlib, time

folder, unlink = pathlib.Path(__file__).parent, os.unlink

def slowly(path):
    (folder / "tidying").touch()
    while (folder / "hold").exists():
        time.sleep(0.01)
    unlink(path)

os.unlink = slowly
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_stopped_command_leaves_nothing_behind(server: FileServer, tmp_path: Path, first: signal.Signals) -> None:
    arrived, hooks, folder = threading.Event(), tmp_path / "hooks", tmp_path / "weights"

    def stalled(handler: Handler) -> None:
        arrived.set()
        stall()(handler)

    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(HOOKS)
    (hooks / "hold").touch()
    server.script["/RealESRGAN_x4plus.pth"] = [stalled]
    outside = {"WEIGHTS_DIR": str(folder), "WEIGHTS_MIRROR": server.url(""), "PYTHONPATH": str(hooks)}
    with subprocess.Popen(FETCH, env=outside, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:  # noqa: S603 - ours
        assert arrived.wait(HANG_SECONDS)
        run.send_signal(first)
        wait_until((hooks / "tidying").exists)
        for number in (signal.SIGINT, signal.SIGTERM):
            run.send_signal(number)
        (hooks / "hold").unlink()
        output, _ = run.communicate(timeout=HANG_SECONDS)
    assert run.returncode == 128 + first
    assert output.endswith("Stopped. Nothing half-written is left behind.\n")
    assert list(folder.iterdir()) == []


def test_progress_is_said_where_no_terminal_shows_a_bar(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weights.fetch.REPORT_SECONDS", 0.05)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    said, lines = threading.Event(), list[str]()

    def slowly(handler: Handler) -> None:
        cut()(handler)
        handler.wfile.flush()
        assert said.wait(HANG_SECONDS)

    def say(line: str) -> None:
        lines.append(line)
        if line == "net.pth: 0.5 of 1.0 MB so far":
            said.set()

    server.script["/net.pth"] = [slowly, rest()]
    manifest = {"net.pth": a_file(server.url("/net.pth"))}
    assert fetch_all(manifest, tmp_path, patience=PATIENT, say=say) == {"net.pth": True}
    assert said.is_set()


@pytest.mark.parametrize("name", ["PORT", "QUEUE_LIMIT"])
def test_wrong_setting_is_named_and_is_no_fault_of_the_weights(tmp_path: Path, name: str) -> None:
    done = fetch(WEIGHTS_DIR=str(tmp_path), **{name: "wrong"})
    assert (done.returncode, done.stdout) == (2, f"{name} must be a whole number, not 'wrong'\n")


def test_folder_that_cannot_be_written_is_named_once_with_what_mends_it() -> None:
    """The kernel lets nobody make a file there, root neither."""
    done = fetch(WEIGHTS_DIR="/sys/kernel")
    assert done.returncode == 1
    user, lines = os.geteuid(), done.stdout.splitlines()
    assert lines[-1].startswith(f"WEIGHTS_DIR /sys/kernel cannot be written: Permission denied for user {user}. ")
    assert f"chown -R {user}:{os.getegid()} /sys/kernel" in lines[-1]
    assert "MISSING AND REQUIRED: RealESRGAN_x4plus.pth. Without it the service cannot upscale anything." in lines
    assert not any("asking" in line or "Errno" in line or "By hand" in line for line in lines)


def test_folder_that_cannot_be_made_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = fetch(WEIGHTS_DIR=str(tmp_path / "file" / "folder"))
    assert done.returncode == 1
    assert done.stdout.endswith(f"WEIGHTS_DIR {tmp_path}/file/folder cannot be written: Not a directory\n")


def test_weights_that_are_there_serve_from_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (tmp_path / "net.pth").write_bytes(DATA)
    run = Run(tmp_path, a_file(server.url("/net.pth"), required=True), a_file(server.url("/other.pth"), name="other.pth"))
    assert run.have == {"net.pth": True, "other.pth": False}
    assert server.asked == []
    assert run.summary[1:] == [
        "Missing: other.pth. Without it the tests fail.",
        unusable_folder("WEIGHTS_DIR", tmp_path, PermissionError(errno.EACCES, "Permission denied")),
    ]


def fetch(**environ: str) -> subprocess.CompletedProcess[str]:
    """The command, where nothing can be had."""
    offline = {"ALL_PROXY": "http://127.0.0.1:9", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PATH": ""}
    return subprocess.run(FETCH, env={**offline, **environ}, capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603 - ours
