"""`python -m bench.load.soak [SECONDS]`: everything at once, for long, at capacity; nothing may grow, get lost or get mixed up.

A server process with the real weights; clients that ask for new pictures and for the same again, send what is wrong, hang up,
and start jobs that they cancel. Every 200 is compared with its golden bytes. Exit status 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import httpx
import numpy as np
from PIL import Image

from bench.results import describe_context
from bench.server import ROOT, SAMPLE, Server, running_server
from config import MAX_BODY_BYTES, MIB, Settings
from images import Picture, decode_image, encode_image
from upscale import Size, load_upscaler, plan_upscale

WARM_UP_SECONDS = 60.0
CLIENTS = 6  # two more than the server takes in, so that some are refused
QUEUE_LIMIT = 3
MAX_GROWTH = 0.05  # of resident memory
HANG_SECONDS = 60.0
REPORT = ROOT / "docs" / "soak.md"
SEED = 20261122


@dataclass(frozen=True)
class Sample:
    """The server process at a moment when nobody asks for anything."""

    resident_bytes: int
    threads: int
    files: int

    @classmethod
    def take(cls, server: Server) -> Sample:
        process = Path(f"/proc/{server.process.pid if server.process else 'self'}")
        pages = int((process / "statm").read_text().split()[1])
        threads, files = (len(list((process / name).iterdir())) for name in ("task", "fd"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), threads, files)


@dataclass(frozen=True, eq=False)
class Question:
    """A picture to ask for, and what the pipeline makes of it; its goldens are that, encoded."""

    image: bytes
    enlarged: Picture

    def golden(self, output_format: str, quality: int) -> bytes:
        return encode_image(self.enlarged, output_format, quality)[0]


def make_questions() -> list[Question]:
    """Small pictures of every format and kind, with what this process's own pipeline makes of them."""
    upscaler = load_upscaler(Settings.from_env())
    return [
        Question(image, upscaler.upscale(decoded, plan, True, lambda _work: None).picture)
        for image in _pictures()
        for decoded in [decode_image(image)[0]]
        for plan in [plan_upscale(Size(decoded.width, decoded.height), "2k")]
    ]


def _pictures() -> list[bytes]:
    photograph = Image.open(SAMPLE).convert("RGB")
    files = []
    for number, (mode, image_format) in enumerate(
        [
            ("RGB", "PNG"),
            ("RGB", "JPEG"),
            ("RGB", "WEBP"),
            ("RGB", "BMP"),
            ("L", "PNG"),
            ("L", "JPEG"),
            ("RGBA", "PNG"),
            ("P", "BMP"),
        ]
    ):
        for height in (1, 2, 5):
            left, top = 10 * number, 20 * number + height
            strip = np.tile(np.asarray(photograph.crop((left, top, left + 270, top + height))), (1, 2, 1))
            files.append(_file(Image.fromarray(strip[:, : 515 + 3 * number]).convert(mode), image_format))
    return files


def _file(image: Image.Image, image_format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format)
    return file.getvalue()


@dataclass
class Load:
    """The clients. `counts` tells what they did; `faults`, what should not have been."""

    server: Server
    questions: list[Question]
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    _numbers: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311

    def burst(self) -> None:
        """As much at once as never again, so that every pool of threads has all that it will have."""
        with ThreadPoolExecutor(10 * CLIENTS) as clients:
            for _ in range(20 * CLIENTS):
                clients.submit(httpx.post, f"{self.server.url}/upscale", json={"image_b64": "!" * MIB}, timeout=HANG_SECONDS)
                clients.submit(httpx.get, f"{self.server.url}/files/{'0' * 32}.jpg", timeout=HANG_SECONDS)

    def run(self, seconds: float) -> None:
        """Keep all clients busy for that time, then wait until the server has nothing left to do."""
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(CLIENTS) as clients:
            for done in [clients.submit(self._client, end, self._numbers.random()) for _ in range(CLIENTS)]:
                done.result()
        deadline = time.monotonic() + HANG_SECONDS
        while (queue := self.server.health()["queue"])["running"] + queue["waiting"]:
            if time.monotonic() > deadline:
                self.faults.append(f"the queue does not empty: {queue}")
                return
            time.sleep(0.1)
        time.sleep(1)  # for the server to notice that all have hung up

    def _client(self, end: float, seed: float) -> None:
        rng = random.Random(seed)  # noqa: S311
        actions = [self._ask, self._repeat, self._err, self._hang_up, self._start_job]
        with httpx.Client(base_url=self.server.url, timeout=HANG_SECONDS) as client:
            while time.monotonic() < end:
                action = rng.choices(actions, weights=(8, 3, 3, 2, 2))[0]
                try:
                    action(client, rng)
                except httpx.HTTPError as exc:
                    self.faults.append(f"{action.__name__}: {exc!r}")

    def _new_body(self, rng: random.Random) -> dict[str, Any]:
        """A request that is hardly ever the same as another: so each costs its work."""
        return {
            "question": rng.randrange(len(self.questions)),
            "output_format": rng.choice(["jpeg", "png", "webp"]),
            "quality": rng.randint(1, 100),
        }

    def _send(self, client: httpx.Client, body: dict[str, Any], **headers: str) -> httpx.Response:
        image = base64.b64encode(self.questions[body["question"]].image).decode()
        asked = {"image_b64": image, "target_resolution": "2k", **{name: body[name] for name in ("output_format", "quality")}}
        return client.post("/upscale", json=asked, headers=headers)

    def _check(self, body: dict[str, Any], answer: httpx.Response, kind: str) -> None:
        self.counts[f"{kind}: {answer.status_code}"] += 1
        if answer.status_code == 200:
            parsed = answer.json()
            self.counts["answered from the cache"] += bool(parsed.get("cached"))
            self._compare(body, base64.b64decode(parsed["base64"]))
        elif answer.status_code == 503 and answer.json()["code"] == "queue_full":
            time.sleep(0.2)
        else:
            self.faults.append(f"{kind}: {answer.status_code} {answer.text[:200]}")

    def _compare(self, body: dict[str, Any], data: bytes) -> None:
        self.counts["compared with golden bytes"] += 1
        if data != self.questions[body["question"]].golden(body["output_format"], body["quality"]):
            self.faults.append(f"wrong bytes: {body}")

    def _ask(self, client: httpx.Client, rng: random.Random) -> None:
        body = self._new_body(rng)
        self._check(body, self._send(client, body), "new")
        self.asked.append(body)

    def _repeat(self, client: httpx.Client, rng: random.Random) -> None:
        if self.asked:
            body = rng.choice(self.asked[-50:])
            self._check(body, self._send(client, body), "again")

    def _err(self, client: httpx.Client, rng: random.Random) -> None:
        image = rng.choice(self.questions).image
        broken = base64.b64encode(image[: rng.randrange(len(image) // 2)]).decode()
        send: Callable[[], httpx.Response] = rng.choice(
            [
                lambda: client.post("/upscale", json={"image_b64": broken}),
                lambda: client.post("/upscale", json={"image_b64": "!"}),
                lambda: client.post("/upscale", content=b"[" * 1000, headers={"Content-Type": "application/json"}),
                lambda: client.get("/files/" + "0" * 32 + ".jpg"),
                lambda: client.delete("/upscale"),
                lambda: client.post(
                    "/upscale", content=bytes(MAX_BODY_BYTES + 1), headers={"Content-Type": "application/json"}
                ),
            ]
        )
        status = send().status_code
        self.counts[f"wrong: {status}"] += 1
        if status not in (400, 404, 405, 413, 503):  # a picture that is broken further on may find the queue full
            self.faults.append(f"wrong: {status}")

    def _hang_up(self, _: httpx.Client, rng: random.Random) -> None:
        image = base64.b64encode(rng.choice(self.questions).image)
        body = b'{"target_resolution":"2k","quality":%d,"image_b64":"%s"}' % (rng.randint(1, 100), image)
        head = b"POST /upscale HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        with socket.create_connection(("127.0.0.1", httpx.URL(self.server.url).port or 80)) as connection:
            sent = (head + body)[: rng.choice([len(head), len(head) + len(body) // 2, len(head) + len(body)])]
            connection.sendall(sent)
            time.sleep(rng.random() / 2)
        self.counts["hung up"] += 1

    def _start_job(self, client: httpx.Client, rng: random.Random) -> None:
        body = self._new_body(rng)
        answer = self._send(client, body, Prefer="respond-async")
        self.counts[f"job: {answer.status_code}"] += 1
        if answer.status_code != 202:
            return
        job = answer.json()
        if rng.random() < 0.5:
            time.sleep(rng.random() / 4)
            client.post(job["urls"]["cancel"])
            self.counts["job cancelled"] += 1
            return
        deadline = time.monotonic() + HANG_SECONDS
        while job["status"] in ("starting", "processing"):
            if time.monotonic() > deadline:
                self.faults.append(f"job hangs: {job}")
                return
            time.sleep(0.1)
            job = client.get(job["urls"]["get"]).json()
        if job["status"] == "succeeded":
            self._compare(body, client.get(job["result"]["url"]).content)
        else:
            self.faults.append(f"job: {job}")


def watch(server: Server, ended: threading.Event, series: list[float]) -> None:
    """Resident memory in MiB, every ten seconds."""
    while not ended.wait(10):
        series.append(Sample.take(server).resident_bytes / MIB)


def soak(seconds: float, out: TextIO) -> bool:
    """Run it, write the report, and say whether all limits held."""
    questions = make_questions()
    series: list[float] = []
    ended = threading.Event()
    with (
        tempfile.TemporaryDirectory() as outputs,
        running_server(
            Path(outputs), QUEUE_LIMIT=str(QUEUE_LIMIT), BODY_TIMEOUT_SECONDS="5", RETENTION_SECONDS="60"
        ) as server,
    ):
        load = Load(server, questions)
        watcher = threading.Thread(target=watch, args=(server, ended, series))
        watcher.start()
        try:
            load.burst()
            load.run(min(WARM_UP_SECONDS, seconds / 3))
            first = Sample.take(server)
            load.run(seconds - min(WARM_UP_SECONDS, seconds / 3))
            last = Sample.take(server)
        finally:
            ended.set()
            watcher.join()
        stopped = _stop(server)
        faults = load.faults + _faults_of(first, last) + [line for line in server.log if "Traceback" in line]
    if stopped != 0:
        faults.append(f"exit status {stopped} after SIGTERM")
    out.write(_report(seconds, load, first, last, series, faults))
    sys.stderr.write("".join(f"{fault}\n" for fault in faults[:50]))
    return not faults


def _stop(server: Server) -> int:
    if server.process is None:
        return 0
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(timeout=60)


def _faults_of(first: Sample, last: Sample) -> list[str]:
    faults = []
    if last.resident_bytes > first.resident_bytes * (1 + MAX_GROWTH):
        faults.append(f"resident memory grew from {_mib(first)} to {_mib(last)} MiB")
    if last.threads > first.threads:
        faults.append(f"threads grew from {first.threads} to {last.threads}")
    if last.files > first.files:
        faults.append(f"open files grew from {first.files} to {last.files}")
    return faults


def _mib(sample: Sample) -> str:
    return f"{sample.resident_bytes / MIB:.0f}"


def _report(seconds: float, load: Load, first: Sample, last: Sample, series: list[float], faults: list[str]) -> str:
    context = describe_context({})
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    growth = last.resident_bytes / first.resident_bytes - 1
    lines = [
        "# Soak",
        "",
        f"`make soak SECONDS={seconds:.0f}` on {datetime.now(UTC):%Y-%m-%d}, commit {context['commit']},",
        f"{os.cpu_count()} cores of {context['cpu']}, Python {context['python']}, {versions}:",
        f"{CLIENTS} clients at once, a queue of {QUEUE_LIMIT}, small pictures of every format, the real weights.",
        "",
        f"**{len(faults)} faults.** Both samples are taken when all clients have hung up and the queue is empty.",
        "",
        "| | after the first minute | at the end | limit |",
        "|---|---|---|---|",
        f"| resident memory ({growth:+.1%}), MiB | {_mib(first)} | {_mib(last)} | +{MAX_GROWTH:.0%} |",
        f"| threads | {first.threads} | {last.threads} | +0 |",
        f"| open files and sockets | {first.files} | {last.files} | +0 |",
        "",
        "| what happened | times |",
        "|---|---|",
        *(f"| {what} | {times:,} |" for what, times in sorted(load.counts.items())),
        "",
        "Resident memory under load, every ten seconds, in MiB:",
        "",
        "```",
        *(" ".join(f"{value:5.0f}" for value in series[start : start + 12]) for start in range(0, len(series), 12)),
        "```",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit status 0 if every limit held."""
    parser = argparse.ArgumentParser(prog="bench.load.soak", description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=600.0)
    parser.add_argument("--report", type=Path, default=REPORT, help="where the figures go (Markdown)")
    options = parser.parse_args()
    with options.report.open("w", encoding="utf-8") as out:
        return 0 if soak(options.seconds, out) else 1


if __name__ == "__main__":
    sys.exit(main())
