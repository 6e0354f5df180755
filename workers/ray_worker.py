"""Deploys the workers of a Ray cluster, or replaces them by new ones: `python -m workers.ray_worker --max 8`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from core.config import ConfigError, Settings
from model_utility import Models, load_models
from workers.ray_client import APPLICATION, join_cluster
from workers.ray_replica import Replica

if TYPE_CHECKING:
    from ray.serve import Application

TARGET_LOAD = 0.7  # of the replicas that are up: busier, and there will be more
UPSCALE_FACTOR = 5.0  # three times as many when all are busy: a gateway sends no more tasks than there are replicas
UPSCALE_DELAY_SECONDS = 1.0  # of such a load
LOAD_SECONDS = 2.0  # of which a load is the mean
DOWNSCALE_DELAY_SECONDS = 60.0  # of less; a replica takes seconds to load its models
ASK_SECONDS = 0.02  # between two questions to all replicas whether one is free
LONGEST_TASK_SECONDS = 1800.0  # that a replica may finish before it goes


def build(least: int = 1, most: int = 1, cpus: float = 0, load: Callable[[Settings], Models] = load_models) -> Application:
    """The application of `least` to `most` workers; each has a graphics card, or so many `cpus` instead."""
    from ray import serve

    deployment = serve.deployment(
        name="worker",
        max_ongoing_requests=1,
        autoscaling_config={
            "min_replicas": least,
            "initial_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": TARGET_LOAD,
            "upscaling_factor": UPSCALE_FACTOR,
            "metrics_interval_s": LOAD_SECONDS / 4,
            "look_back_period_s": LOAD_SECONDS,
            "upscale_delay_s": UPSCALE_DELAY_SECONDS,
            "downscale_delay_s": DOWNSCALE_DELAY_SECONDS,
        },
        ray_actor_options={"num_cpus": cpus} if cpus else {"num_gpus": 1},
        health_check_period_s=2.0,
        health_check_timeout_s=5.0,
        graceful_shutdown_timeout_s=LONGEST_TASK_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        request_router_config={
            "request_router_class": "workers.ray_router:FreeReplicaRouter",
            "initial_backoff_s": ASK_SECONDS,
            "backoff_multiplier": 1,
            "max_backoff_s": ASK_SECONDS,
        },
    )(Replica)
    return deployment.bind(load, most)


def from_config(arguments: Mapping[str, float]) -> Application:
    """The same for a configuration of Ray Serve, in whose `args` are `least` and `most`."""
    return build(int(arguments["least"]), int(arguments["most"]), arguments.get("cpus", 0))


def main(load: Callable[[Settings], Models] = load_models) -> int:
    """Deploy, and return once the workers are up; they stay."""
    parser = argparse.ArgumentParser(prog="python -m workers.ray_worker", description=__doc__)
    parser.add_argument("--min", type=int, default=1, help="workers that are always there (1)")
    parser.add_argument("--max", type=int, default=1, help="workers when there is much to do (1)")
    parser.add_argument("--cpus", type=float, default=0, help="processors for each, where there are no graphics cards")
    args = parser.parse_args()
    try:
        join_cluster()
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    from ray import serve

    serve.start(proxy_location="Disabled")  # nothing here is served over HTTP
    serve.run(build(args.min, args.max, args.cpus, load), name=APPLICATION, route_prefix=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
