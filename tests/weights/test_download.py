"""One file from one server: whole, resumed, refused, too slow."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.weights.file_server import (
    DATA,
    IMPATIENT,
    FileServer,
    Handler,
    Run,
    a_file,
    cut,
    rest,
    silence,
    stall,
    status,
    whole,
)


def test_right_file_is_fetched_whole(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [whole()]
    run = Run(tmp_path / "new" / "folder", a_file(server.url("/net.pth")))
    assert run.have == {"net.pth": True}
    assert run.folder == {"net.pth": DATA}


def test_fetched_file_can_be_read_by_others(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [whole()]
    Run(tmp_path, a_file(server.url("/net.pth")))
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "net.pth").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_right_file_in_the_folder_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(DATA)
    run = Run(tmp_path, a_file(server.url("/net.pth")))
    assert run.have == {"net.pth": True}
    assert run.lines == ["net.pth: already there"]
    assert server.asked == []


def test_wrong_file_in_the_folder_is_replaced(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"something else")
    server.script["/net.pth"] = [whole()]
    run = Run(tmp_path, a_file(server.url("/net.pth")))
    assert run.folder == {"net.pth": DATA}
    assert run.said(hashlib.sha256(b"something else").hexdigest()) == 1


def test_wrong_hash_is_deleted_and_both_hashes_are_named(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [whole(b"x" * len(DATA))]
    run = Run(tmp_path, a_file(server.url("/net.pth")))
    assert run.have == {"net.pth": False}
    assert run.folder == {}
    (line,) = [line for line in run.lines if "SHA-256" in line]
    assert hashlib.sha256(b"x" * len(DATA)).hexdigest() in line
    assert hashlib.sha256(DATA).hexdigest() in line


def test_cut_connection_is_resumed_where_it_broke_off(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [cut(len(DATA) // 2), rest()]
    run = Run(tmp_path, a_file(server.url("/net.pth")))
    assert run.folder == {"net.pth": DATA}
    assert server.asked == [("/net.pth", None), ("/net.pth", f"bytes={len(DATA) // 2}-")]
    assert run.said("broke off after 524,288 bytes") == 1


def test_server_that_ignores_range_sends_all_of_it_again(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [cut(), whole()]
    assert Run(tmp_path, a_file(server.url("/net.pth"))).folder == {"net.pth": DATA}


def test_connection_cut_behind_the_last_byte_loses_nothing(server: FileServer, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.head(200, Content_Length=len(DATA) + 1)
        handler.wfile.write(DATA)

    server.script["/net.pth"] = [endless, status(416)]
    assert Run(tmp_path, a_file(server.url("/net.pth"))).folder == {"net.pth": DATA}


def test_connection_cut_at_the_same_byte_again_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [cut()]
    run = Run(tmp_path, a_file(server.url("/net.pth")))
    assert run.have == {"net.pth": False}
    assert run.folder == {}
    assert len(server.asked) == 2
    assert run.said("the rest did not come") == 1


def test_connection_cut_further_on_each_time_is_given_up_after_five_tries(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [cut(1000 * n) for n in range(1, 9)]
    run = Run(tmp_path, a_file(server.url("/net.pth")))
    assert run.folder == {}
    assert len(server.asked) == 5


def test_stalled_transfer_is_resumed(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [stall(), rest()]
    run = Run(tmp_path, a_file(server.url("/net.pth")), patience=IMPATIENT)
    assert run.folder == {"net.pth": DATA}
    assert run.said("stalled for 1 s") == 1


def test_trickle_is_given_up(server: FileServer, tmp_path: Path) -> None:
    def trickle(handler: Handler) -> None:
        handler.head(200, Content_Length=len(DATA))
        while not handler.server.closing.wait(0.02):
            handler.wfile.write(b"x")

    server.script["/net.pth"] = [trickle]
    run = Run(tmp_path, a_file(server.url("/net.pth")), patience=IMPATIENT)
    assert run.folder == {}
    assert run.said("too slow") == 1


@pytest.mark.parametrize("code", [404, 403, 500, 503])
def test_refusal_is_one_clear_line(server: FileServer, tmp_path: Path, code: int) -> None:
    server.script["/net.pth"] = [status(code)]
    run = Run(tmp_path, a_file(server.url("/net.pth")))
    assert run.have == {"net.pth": False}
    assert run.folder == {}
    assert run.said(f"answered {code} ") == 1
    assert len(server.asked) == 1


def test_redirect_is_followed(server: FileServer, tmp_path: Path) -> None:
    server.script["/net.pth"] = [lambda handler: handler.head(302, Location="/elsewhere", Content_Length=0)]
    server.script["/elsewhere"] = [whole()]
    assert Run(tmp_path, a_file(server.url("/net.pth"))).folder == {"net.pth": DATA}


def test_unreachable_host_is_given_up_once_for_all_files(nowhere: str, tmp_path: Path) -> None:
    run = Run(tmp_path, *(a_file(f"{nowhere}/{n}", name=f"{n}.pth") for n in range(3)))
    assert run.have == {"0.pth": False, "1.pth": False, "2.pth": False}
    assert run.said("does not answer") == 1
    assert len(run.lines) == 2


def test_silent_host_is_given_up_once_for_all_files(server: FileServer, tmp_path: Path) -> None:
    server.script = {"/0": [silence], "/1": [silence]}
    run = Run(tmp_path, *(a_file(server.url(f"/{n}"), name=f"{n}.pth") for n in range(2)), patience=IMPATIENT)
    assert run.folder == {}
    assert server.asked == [("/0", None)]
    assert run.said("does not answer") == 1
