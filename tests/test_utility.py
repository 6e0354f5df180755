"""Base64 and the folder of results."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import pytest

from core.config import MAX_IMAGE_BYTES
from core.errors import FileNotFound, FileTooLarge, InvalidBase64
from storage.result_store import ResultStore
from tests.helpers import file_size_limit
from utility import decode_base64

HOUR = 60 * 60.0
NOW = 1_000_000_000.0


# base64


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_base64_of_every_padding_is_decoded(size: int) -> None:
    data = bytes(range(256)) * 4
    assert decode_base64(base64.b64encode(data[:size]).decode()) == data[:size]


@pytest.mark.parametrize(
    "prefix",
    [
        "data:image/png;base64,",
        "DATA:IMAGE/svg+xml;charset=utf-8;BASE64,",
        "\n data:image/x-a.b;base64,",
        "data:;base64,",
        "data:image/jpeg;name=my%20photo.png;base64,",
        "data:image/png; charset=utf-8;base64,",
        'data:image/png;name="a, b;c.png";base64,',
        "data:image/png;name=фото.png;base64,",
        "data:application/octet-stream; base64 ,",
        f"data:image/png;name={'x' * 1000}.png;base64,",
    ],
)
def test_a_data_url_of_any_kind_is_decoded(prefix: str) -> None:
    assert decode_base64(f"{prefix}QUJD") == b"ABC"


@pytest.mark.parametrize(
    "url", ["data:,QUJD", "data:image/png,QUJD", "data:base64,QUJD", "data:" + "a" * 3000 + ";base64,QUJD"]
)
def test_a_data_url_that_is_not_base64_is_refused_and_says_so(url: str) -> None:
    with pytest.raises(InvalidBase64, match="data URL without ;base64"):
        decode_base64(url)


def test_ascii_whitespace_is_accepted_anywhere() -> None:
    assert decode_base64(" Q\tU\nJ\rD\vR\fA = =\r\n") == b"ABCD"


@pytest.mark.parametrize(
    "text",
    ["QUJ", "QUJD\u00a0", "QUJD\u2028", "QU-_", "QUJD!", "QQ==QUJD", "====", "Q===", "ＱＵＪＤ", "\0QUJD", "data:,QUJD"],
)
def test_what_is_no_standard_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidBase64, match="image_b64 is not standard base64"):
        decode_base64(text)


def test_base64_within_a_limit_of_ones_own() -> None:
    assert decode_base64(base64.b64encode(bytes(8 << 20)).decode(), 8 << 20) == bytes(8 << 20)
    with pytest.raises(FileTooLarge, match="the limit is 1 MB"):
        decode_base64("A" * (2 << 20), 1 << 20)


def test_base64_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(FileTooLarge, match=r"8\.0 MB; the limit is 7 MB"):
        decode_base64("!" * (8 * 1024 * 1024 * 4 // 3))  # not base64 at all, which nobody looks at
    assert len(decode_base64(base64.b64encode(bytes(MAX_IMAGE_BYTES)).decode())) == MAX_IMAGE_BYTES


# the folder of results


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "deep" / "outputs", retention_seconds=HOUR, max_bytes=100)


def put(store: ResultStore, name: str, age: float, size: int = 10) -> Path:
    store.folder.mkdir(parents=True, exist_ok=True)
    path = store.folder / name
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))
    return path


def test_a_result_is_kept_whole_under_an_absolute_name_that_nobody_can_guess(store: ResultStore) -> None:
    paths = {store.save(b"result", "png") for _ in range(20)}
    assert len(paths) == 20
    for path in paths:
        assert path.is_absolute()
        assert path.read_bytes() == b"result"
        assert re.fullmatch(r"[0-9a-f]{32}\.png", path.name)
        assert store.find(path.name).read_bytes() == b"result"
    assert set(store.folder.resolve().iterdir()) == paths


@pytest.mark.parametrize("size", [200, 200_000])
def test_a_result_that_cannot_be_written_leaves_nothing(store: ResultStore, size: int) -> None:
    """The small one fits the buffer, so that closing the file fails too."""
    with file_size_limit(os.getpid(), 100), pytest.raises(OSError, match="File too large"):
        store.save(bytes(size), "png")
    assert list(store.folder.iterdir()) == []


def test_a_disk_that_notices_at_the_end_leaves_nothing(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.save(b"result", "png")
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a.png", "0" * 31 + ".png", "0" * 32 + ".gif", "0" * 32 + ".part", "A" * 32 + ".png"]
)
def test_only_names_of_results_are_found(store: ResultStore, name: str) -> None:
    if "." in name.strip("."):
        put(store, name, 0)
    with pytest.raises(FileNotFound):
        store.find(name)


def test_a_name_with_a_line_break_or_other_digits_is_not_found(store: ResultStore) -> None:
    put(store, "0" * 32 + ".png", 0)
    for name in ("0" * 32 + ".png\n", "٠" * 32 + ".png", "../outputs/" + "0" * 32 + ".png"):
        with pytest.raises(FileNotFound):
            store.find(name)


def test_a_link_is_not_a_result(store: ResultStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store.folder.mkdir(parents=True)
    (store.folder / ("0" * 32 + ".png")).symlink_to(tmp_path / "secret")
    with pytest.raises(FileNotFound):
        store.find("0" * 32 + ".png")


def test_sweep_removes_what_is_too_old_and_nothing_of_others(store: ResultStore) -> None:
    old, young = put(store, "1" * 32 + ".jpg", HOUR + 1), put(store, "2" * 32 + ".webp", HOUR - 1)
    foreign = [put(store, name, 100 * HOUR, size=1000) for name in ("README.txt", "photo.png", "3" * 31 + ".png", "a.part")]
    folder = store.folder / ("4" * 32 + ".png")
    folder.mkdir()
    os.utime(folder, (0, 0))
    assert store.sweep(NOW) == 1
    assert not old.exists()
    assert [path for path in (young, folder, *foreign) if not path.exists()] == []


def test_sweep_removes_the_oldest_beyond_the_size_limit(store: ResultStore) -> None:
    ages = {"1": 10.0, "2": 20.0, "3": 30.0, "4": 40.0}
    paths = {
        name: put(store, name * 32 + ".png", age, size=size)
        for (name, age), size in zip(ages.items(), (60, 40, 30, 1), strict=True)
    }
    assert store.sweep(NOW) == 2
    assert [name for name, path in paths.items() if path.exists()] == ["1", "2"]  # 100 bytes, which is the limit
    assert store.sweep(NOW) == 0


def test_sweep_leaves_what_is_being_written_and_removes_what_a_killed_process_left(store: ResultStore) -> None:
    written, left = put(store, "1" * 32 + ".part", HOUR - 1, size=1000), put(store, "2" * 32 + ".part", HOUR + 1)
    assert store.sweep(NOW) == 1
    assert (written.exists(), left.exists()) == (True, False)


def test_sweep_goes_on_past_a_file_that_cannot_be_removed_and_says_so(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [store.save(b"data", "png") for _ in range(3)]
    for age, path in enumerate(paths):
        os.utime(path, (100 - age, 100 - age))
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == paths[1]:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert store.sweep(now=100 + store.retention_seconds + 1) == 2
    assert "an old file in " in caplog.text
    assert "cannot be removed: Operation not permitted" in caplog.text
    assert paths[1].name not in caplog.text
    assert list(store.folder.iterdir()) == [paths[1]]


def test_sweep_of_a_folder_that_is_not_there_yet_removes_nothing(store: ResultStore) -> None:
    assert store.sweep(NOW) == 0
