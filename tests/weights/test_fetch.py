"""All files of a manifest: mirrors, fallbacks, the summary, the command."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.server import ROOT
from tests.helpers import HANG_SECONDS
from tests.weights.file_server import DATA, PATIENT, FileServer, Handler, Run, a_file, stall, status, whole
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


def test_command_fails_where_the_required_file_cannot_be_had(nowhere: str, tmp_path: Path) -> None:
    outside = {"WEIGHTS_DIR": str(tmp_path), "ALL_PROXY": nowhere, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PATH": ""}
    done = subprocess.run(FETCH, env=outside, capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603 - ours
    assert done.returncode == 1
    assert done.stderr == ""
    assert "MISSING AND REQUIRED: RealESRGAN_x4plus.pth" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_stopped_command_leaves_nothing_behind(server: FileServer, tmp_path: Path) -> None:
    arrived = threading.Event()

    def stalled(handler: Handler) -> None:
        arrived.set()
        stall()(handler)

    server.script["/RealESRGAN_x4plus.pth"] = [stalled]
    outside = {"WEIGHTS_DIR": str(tmp_path), "WEIGHTS_MIRROR": server.url("")}
    with subprocess.Popen(FETCH, env=outside, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:  # noqa: S603 - ours
        assert arrived.wait(HANG_SECONDS)
        run.terminate()
        output, _ = run.communicate(timeout=HANG_SECONDS)
    assert run.returncode == 130
    assert output.endswith("Stopped. Nothing half-written is left behind.\n")
    assert list(tmp_path.iterdir()) == []
