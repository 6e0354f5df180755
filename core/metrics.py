"""Metrics for Prometheus: what has been counted since the start, and what is true now.

It knows names and numbers, and neither requests nor models. A label has a bounded set of values, whatever clients send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from core.config import VERSION

CONTENT_TYPE = CONTENT_TYPE_LATEST
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
UNKNOWN = "unknown"  # every other method, and every path that no route has
# From a decoded thumbnail to an 8k result on a CPU: each bound is 2 to 3 times the one before.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


@dataclass(frozen=True)
class WorkerGauges:
    """What is true of one worker."""

    device: str  # its name
    is_up: bool
    is_running: bool
    tasks_done: int
    retries: int
    memory_bytes: int | None


@dataclass(frozen=True)
class MetricsSnapshot:
    """What is true at this moment. None: there is no such thing here, or not yet."""

    running: int
    waiting: int
    capacity: int
    heartbeat_age_seconds: float | None = None
    device: str = ""
    precision: str = ""
    decode_waiting: int = 0
    workers: tuple[WorkerGauges, ...] = ()


class Metrics:
    """The metrics of one service, in a registry of their own. `snapshot` is called once a page; call all on the event loop."""

    def __init__(self, snapshot: Callable[[], MetricsSnapshot]) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ["method", "route", "status", "code"]
        self._requests = Counter("upscale_requests", "Requests, by what became of them", labels, registry=registry)
        self._jobs = Counter("upscale_jobs", "Jobs that have ended, by how", ["status", "code"], registry=registry)
        self._request_seconds = Histogram(
            "upscale_request_seconds", "Time from headers to the response's end", ["route"], buckets=SECONDS, registry=registry
        )
        self._stage_seconds = Histogram(
            "upscale_stage_seconds", "Time of each stage of an upscale", ["stage"], buckets=SECONDS, registry=registry
        )
        self._pixels_in = Counter("upscale_pixels_in", "Pixels of images that were upscaled", registry=registry)
        self._pixels_out = Counter("upscale_pixels_out", "Pixels of their results", registry=registry)
        self._faces = Counter("upscale_faces", "Faces that were found", registry=registry)
        self._cache_hits = Counter("upscale_cache_hits", "Results that were there already", registry=registry)
        registry.register(_SnapshotCollector(snapshot))
        ProcessCollector(registry=registry)  # memory, CPU time, open files

    def count_request(self, method: str, route: str, status: int, code: str, seconds: float) -> None:
        """A request that has ended. `route` is the rule that matched, or empty; `code` that of the error, or empty."""
        self._requests.labels(method if method in METHODS else UNKNOWN, route or UNKNOWN, str(status), code).inc()
        self._request_seconds.labels(route or UNKNOWN).observe(seconds)

    def count_job(self, status: str, code: str) -> None:
        """A job that has ended. `code` is that of its error, or empty."""
        self._jobs.labels(status, code).inc()

    def count_stages(self, seconds: Mapping[str, float]) -> None:
        """Stages that are done, by name."""
        for stage, value in seconds.items():
            self._stage_seconds.labels(stage).observe(value)

    def count_upscale(self, pixels_in: int, pixels_out: int, faces: int) -> None:
        """An upscale that has been done."""
        self._pixels_in.inc(pixels_in)
        self._pixels_out.inc(pixels_out)
        self._faces.inc(faces)

    def count_cache_hit(self) -> None:
        """A result that was given out without being made again."""
        self._cache_hits.inc()

    def page(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Callable[[], MetricsSnapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        """Nothing, so that registering takes no snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        now = self._snapshot()
        gauges = {
            "upscale_queue_running": ("Upscales on the device, or past it and not done", now.running),
            "upscale_queue_waiting": ("Upscales whose turn has not come", now.waiting),
            "upscale_queue_capacity": ("Upscales that may wait", now.capacity),
            "upscale_decode_waiting": ("Pictures that wait to be decoded", now.decode_waiting),
            "upscale_heartbeat_age_seconds": ("Time since the registry took a heartbeat", now.heartbeat_age_seconds),
        }
        for name, (meaning, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(name, meaning, value)
        yield from _of_workers(now.workers)
        build = {"version": VERSION, "device": now.device, "precision": now.precision}
        yield InfoMetricFamily("upscale_build", "What is running here, and on what", build)


def _of_workers(workers: tuple[WorkerGauges, ...]) -> Iterator[Metric]:
    label = ["device"]
    families: tuple[tuple[GaugeMetricFamily | CounterMetricFamily, Callable[[WorkerGauges], int | None]], ...] = (
        (GaugeMetricFamily("upscale_worker_up", "Whether a worker can take tasks", labels=label), lambda it: it.is_up),
        (GaugeMetricFamily("upscale_worker_running", "Whether it has one", labels=label), lambda it: it.is_running),
        (CounterMetricFamily("upscale_worker_tasks", "Tasks that it has done", labels=label), lambda it: it.tasks_done),
        (
            CounterMetricFamily("upscale_retries", "Tasks that began again, since it was lost", labels=label),
            lambda it: it.retries,
        ),
        (
            GaugeMetricFamily("upscale_device_memory_bytes", "Memory of the GPU that its models hold", labels=label),
            lambda it: it.memory_bytes,
        ),
    )
    for family, value in families:
        for worker in workers:
            if (known := value(worker)) is not None:
                family.add_metric([worker.device], known)
        if family.samples:
            yield family
