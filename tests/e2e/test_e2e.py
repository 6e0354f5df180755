"""What a user sees: a server process started as an operator starts it, the real weights, a real socket.

The pictures are chosen by cost: x4plus takes 36 MFLOP per input pixel, so a strip of 260×48 is two seconds of one core.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms

from bench.server import ROOT, SAMPLE, Server, running_server
from core.config import MIB
from tests.e2e.faults import FRAGILE
from tests.helpers import HANG_SECONDS, WEIGHTS, encode, psnr, sample_crop, wait_until

get = partial(httpx.get, timeout=HANG_SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("outputs"), WEIGHTS_DIR=str(WEIGHTS)) as running:
        yield running


def picture_of(response: dict[str, Any]) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(response["base64"], validate=True)))
    image.load()
    return image


def test_one_4x_pass(server: Server) -> None:
    photograph = sample_crop(260, 24, top=40)
    response = server.upscale(encode(photograph), output_format="png")
    assert response["upscaling_strategy"] == [4]
    assert response["original_size"] == {"width": 260, "height": 24}
    assert response["upscaled_size"] == {"width": 1040, "height": 96}
    picture = picture_of(response)
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (1040, 96))
    shrunk = np.asarray(picture.resize((260, 24), Image.Resampling.BOX))
    assert psnr(shrunk, photograph) > 25, "the result is another picture than the input"


def test_one_2x_pass(server: Server) -> None:
    photograph = np.tile(sample_crop(300, 24, top=100), (1, 2, 1))
    response = server.upscale(encode(photograph), output_format="png")
    assert (response["upscaling_strategy"], response["total_scale"]) == ([2], 2.0)
    picture = picture_of(response)
    assert picture.size == (1200, 48)
    assert psnr(np.asarray(picture.resize((600, 24), Image.Resampling.BOX)), photograph) > 25


def test_a_drawing_is_upscaled_by_a_network_of_its_own(server: Server) -> None:
    assert server.health()["models"]["upscale_x4_anime"]["loaded"] is True
    drawing = np.full((16, 260, 3), 250, np.uint8)
    drawing[4:12, 20:24] = drawing[6:8, 20:240] = (20, 30, 120)
    anime, photo = (server.upscale(encode(drawing), model=model, output_format="png") for model in ("anime", "photo"))
    assert (anime["model"], photo["model"], anime["upscaling_strategy"]) == ("anime", "photo", [4])
    shrunk = np.asarray(picture_of(anime).resize((260, 16), Image.Resampling.BOX))
    assert psnr(shrunk, drawing) > 25, "the result is another picture than the input"
    assert anime["base64"] != photo["base64"]


def test_a_fast_network_makes_a_like_picture_in_a_part_of_the_time(server: Server) -> None:
    assert server.health()["models"]["upscale_x4_anime_fast"] == {"loaded": True, "file": "realesr-animevideov3.pth"}
    photograph = encode(sample_crop(260, 64, top=40))
    fast, slow = (server.upscale(photograph, model=model, output_format="png") for model in ("anime_fast", "anime"))
    assert (fast["model"], fast["upscaling_strategy"]) == ("anime_fast", [4])
    assert psnr(np.asarray(picture_of(fast).resize((260, 64), Image.Resampling.BOX)), sample_crop(260, 64, top=40)) > 25
    assert fast["base64"] != slow["base64"]
    plans = [
        httpx.post(
            f"{server.url}/plan?model={model}", content=photograph, headers={"Content-Type": "image/png"}, timeout=HANG_SECONDS
        ).json()
        for model in ("anime_fast", "photo")
    ]
    assert plans[0]["predicted_seconds"] < plans[1]["predicted_seconds"] / 4
    halved = server.upscale(encode(sample_crop(600, 8)), model="anime_fast")
    assert (halved["upscaling_strategy"], halved["upscaled_size"]) == ([2], {"width": 1200, "height": 16})


def test_the_file_on_disk_the_base64_and_the_download_are_the_same_bytes(server: Server) -> None:
    response = server.upscale(encode(sample_crop(260, 8)))
    data = base64.b64decode(response["base64"])
    path = Path(response["file_path"])
    assert get(f"{server.url}/files/{path.name}.part").status_code == 404
    assert path.read_bytes() == data
    download = get(f"{server.url}/files/{path.name}")
    assert (download.content, download.headers["content-type"]) == (data, "image/jpeg")
    assert picture_of(response).format == "JPEG"


def test_the_face_of_a_photograph_is_found_and_the_missing_restorer_is_named(server: Server) -> None:
    response = server.upscale(encode(sample_crop(264, 160, left=80, top=20)), model="anime_fast")
    assert response["faces_detected"] == 1
    ((left, top, right, bottom),) = [face["box"] for face in response["faces"]]
    assert 60 < left < 110 < 140 < right < 190  # 80 and 20 px less than in the whole sample
    assert 0 < top < 50 < 100 < bottom < 160
    restored = server.health()["models"]["face_restoration"]["loaded"]
    assert response["faces_enhanced"] is restored
    assert restored or "GFPGANv1.4.pth" in response["warnings"][0]
    assert server.upscale(encode(sample_crop(264, 8)), enhance_faces=False)["warnings"] == []


def test_alpha_gray_profile_and_orientation_survive_the_trip(server: Server) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgba = np.dstack([sample_crop(260, 12), np.repeat(np.linspace(0, 255, 260, dtype=np.uint8)[None], 12, axis=0)])
    transparent = picture_of(server.upscale(encode(rgba, icc_profile=profile)))
    assert (transparent.format, transparent.mode, transparent.info["icc_profile"]) == ("PNG", "RGBA", profile)
    alpha = np.asarray(transparent)[:, :, 3]
    assert alpha[:, :40].max() < 40
    assert alpha[:, -40:].min() > 215

    gray = picture_of(server.upscale(encode(Image.fromarray(sample_crop(260, 8)).convert("L")), output_format="png"))
    assert gray.mode == "L"

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = server.upscale(encode(sample_crop(260, 8), "JPEG", exif=exif))
    assert turned["original_size"] == {"width": 8, "height": 260}
    assert picture_of(turned).size == (32, 1040)


def test_exact_fit_ends_on_the_target(server: Server) -> None:
    response = server.upscale(encode(sample_crop(480, 4)), fit="exact", output_format="webp")
    assert (response["upscaling_strategy"], response["upscaled_size"]) == ([4, 2], {"width": 2048, "height": 17})
    assert picture_of(response).size == (2048, 17)


def test_eight_requests_at_once_give_the_bytes_that_each_gives_alone(server: Server) -> None:
    images = [encode(sample_crop(257 + 5 * i, 2 + i % 4, left=10 * i, top=20 * i)) for i in range(8)]

    strengths = itertools.count(1)  # of faces that are not there: so that each is made again, not found

    def made(image: bytes) -> str:
        response = server.upscale(image, face_strength=next(strengths) / 100)
        assert response["cached"] is False
        return str(response["base64"])

    alone = [made(image) for image in images]
    with ThreadPoolExecutor(8) as clients:
        for count in (2, 8):
            assert list(clients.map(made, images[:count])) == alone[:count]


def test_a_small_picture_overtakes_a_large_one_and_both_get_the_bytes_that_each_gets_alone(server: Server) -> None:
    large, small = encode(sample_crop(264, 48)), encode(sample_crop(257, 3, top=90))
    with ThreadPoolExecutor(1) as client:
        running = client.submit(server.upscale, large, enhance_faces=False)
        while server.health()["queue"]["running"] == 0:
            assert not running.done()
        between = server.upscale(small, enhance_faces=False)
        assert not running.done(), "the small picture waited for the large one"
        preempted = running.result()
    alone = {"enhance_faces": False, "face_strength": 0.5}  # so that they are really made again
    assert server.upscale(small, **alone)["base64"] == between["base64"]
    assert server.upscale(large, **alone)["base64"] == preempted["base64"]


def test_a_hundred_uploads_at_once_are_bounded_in_memory(server: Server) -> None:
    server.upscale(encode(sample_crop(257, 2)))
    before_bytes = server.memory_bytes("VmHWM")
    body = b'{"image_b64": "' + b"A" * (16 * MIB - 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    with ThreadPoolExecutor(100) as clients:
        responses = list(
            clients.map(lambda _: httpx.post(f"{server.url}/upscale", content=body, headers=headers, timeout=600), range(100))
        )
    codes = Counter((response.status_code, response.json()["code"]) for response in responses)
    assert set(codes) == {(400, "file_too_large"), (503, "queue_full")}, codes
    assert server.memory_bytes("VmHWM") - before_bytes < 700 * MIB  # 1600 came, and 256 may be held
    assert server.upscale(encode(sample_crop(257, 3)))["success"] is True


def test_bad_input_gets_its_error_and_the_next_request_its_picture(server: Server) -> None:
    response = server.post(SAMPLE.read_bytes()[:2000])
    assert (response.status_code, response.json()["code"]) == (400, "broken_image")
    assert server.upscale(encode(sample_crop(257, 2)))["success"] is True


def test_health_answers_while_the_network_runs(server: Server) -> None:
    with ThreadPoolExecutor(1) as client:
        job = client.submit(server.upscale, encode(sample_crop(260, 24)))
        seen = set()
        while not job.done():
            health = server.health()
            seen.add((health["queue"]["running"], health["status"] in ("healthy", "degraded")))
        assert job.result()["success"] is True
    assert (1, True) in seen


def test_the_command_line_gives_the_bytes_of_the_service(server: Server, tmp_path: Path) -> None:
    source, result = tmp_path / "in.png", tmp_path / "out.jpg"
    source.write_bytes(encode(sample_crop(260, 8)))
    command = [sys.executable, "cli.py", str(source), "-o", str(result), "--target", "2k"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "WEIGHTS_DIR": str(WEIGHTS)}, capture_output=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert result.read_bytes() == base64.b64decode(server.upscale(source.read_bytes())["base64"])


def read_until(pattern: bytes, terminal: int) -> bytes:
    """What a terminal shows, up to the pattern."""
    seen = b""
    while not re.search(pattern, seen):
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            pytest.fail(f"The program has ended without {pattern!r}: {seen!r}")
    return seen


@pytest.fixture
def sigint_at_default() -> Iterator[None]:
    """As at a terminal: a shell's background jobs ignore it, and so would what these tests start."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("sigint_at_default")
def test_ctrl_c_at_a_terminal_stops_the_command_line_in_the_middle_of_a_moving_bar(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.png").write_bytes(encode(sample_crop(260, 96)))
    pictures = [str(tmp_path / "first.png"), str(tmp_path / "second.png")]
    command = [sys.executable, "cli.py", *pictures, "-o", str(tmp_path / "out"), "--target", "2k"]
    environment = {**os.environ, "WEIGHTS_DIR": str(WEIGHTS)}
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 120))  # rows, columns: bars take no room that is not there
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=end) as run:  # noqa: S603
        os.close(end)
        seen = read_until(rb"first\.png 260\xc3\x9796 [^\r]* [3-9]\d %", terminal)
        run.send_signal(signal.SIGINT)
        seen += read_until(rb"Stopped\.", terminal)
        assert run.wait(timeout=HANG_SECONDS) == 130
    os.close(terminal)
    assert b"2 pictures" in seen
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_left_behind_but_results(server: Server) -> None:
    server.post(b"no picture")
    folder = Path(server.upscale(encode(sample_crop(257, 2)))["file_path"]).parent
    assert {path.suffix for path in folder.iterdir()} <= {".jpg", ".png", ".webp", ".json"}


@contextmanager
def registry() -> Iterator[tuple[str, Queue[dict[str, Any]]]]:
    """A central registry: takes every beat."""
    beats: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            beats.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/register", beats
        finally:
            httpd.shutdown()
            thread.join()


def test_sigterm_finishes_what_runs_refuses_what_is_new_and_says_so(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    settings = {"DEVICE_FILES": str(tmp_path), "DEVICE_ENDS": "1", "HEARTBEAT_SECONDS": "0.2"}
    with (
        registry() as (registry_url, beats),
        running_server(tmp_path / "outputs", program=FRAGILE, REGISTRY_URL=registry_url, **settings) as server,
        ThreadPoolExecutor(1) as client,
    ):
        assert beats.get(timeout=HANG_SECONDS)["type"] == "upscale"
        hold.touch()
        job = client.submit(server.upscale, encode(sample_crop(260, 4)))
        wait_until(lambda: bool(server.health()["queue"]["running"]))
        assert server.process
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.health()["status"] == "draining")
        refused = server.post(encode(sample_crop(260, 4)))
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        assert int(refused.headers["Retry-After"]) >= 1
        assert get(f"{server.url}/health").status_code == 503
        hold.unlink()
        assert job.result()["success"] is True
        assert server.process.wait(timeout=HANG_SECONDS) == 0
        while (beat := beats.get(timeout=HANG_SECONDS))["status"] != "draining":
            pass
        assert beats.empty()
    assert beat["url"].startswith("http://127.0.0.1:")


def follow(server: Server, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a job."""
    with httpx.stream("GET", server.url + job["urls"]["events"], timeout=HANG_SECONDS) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def submit(server: Server, image: bytes) -> dict[str, Any]:
    body = {"image_b64": base64.b64encode(image).decode(), "target_resolution": "2k"}
    response = httpx.post(f"{server.url}/upscale", json=body, headers={"Prefer": "respond-async"}, timeout=HANG_SECONDS)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def test_a_job_is_followed_block_by_block(server: Server) -> None:
    image = encode(sample_crop(261, 24))
    events = list(follow(server, submit(server, image)))
    assert events[-1]["status"] == "succeeded"
    assert len({event["progress"] for event in events}) > 2, "progress is that of the network's blocks"
    data = get(server.url + events[-1]["result"]["url"]).content
    assert data == base64.b64decode(server.upscale(image)["base64"])


def test_jobs_survive_the_death_of_the_process(tmp_path: Path) -> None:
    image, hold = encode(sample_crop(260, 24)), tmp_path / "hold"
    start = partial(running_server, tmp_path / "outputs", program=FRAGILE, DEVICE_FILES=str(tmp_path))
    with start() as server:
        done = list(follow(server, submit(server, image)))[-1]
        data = get(server.url + done["result"]["url"]).content
        hold.touch()
        running, waiting = (submit(server, encode(sample_crop(260, height))) for height in (4, 8))
        assert next(event for event in follow(server, running) if event["status"] == "processing")
        assert server.process
        server.process.kill()
    hold.unlink()
    with start() as server:
        assert get(server.url + done["urls"]["get"]).json() == done
        assert get(server.url + done["result"]["url"]).content == data
        for job in (running, waiting):
            went_on = list(follow(server, job))[-1]
            assert (went_on["status"], went_on["created_at"]) == ("succeeded", job["created_at"])
            assert get(server.url + went_on["result"]["url"]).status_code == 200
        assert submit(server, image)["status"] in ("starting", "processing")
