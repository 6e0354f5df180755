"""What a worker elsewhere costs is known here from a few sizes."""

from __future__ import annotations

import itertools
import pickle

import pytest

from schemas.plan import Plan, Size, plan_upscale
from tests.helpers import FakeResolver, fake_worker
from workers.costs import Costs

SIDES_PX = (1, 3, 17, 100, 777, 1900)


class Tiled(FakeResolver):
    """Costs a fixed part, and whole tiles with their edges."""

    def flops(self, height: int, width: int, scale: int) -> float:
        return 1000 + (height + 10) * (width + 10) * scale**2

    def memory_bytes(self, height: int, width: int, scale: int) -> int:
        return min(5000 + height * width * 64, 30_000_000)


@pytest.mark.parametrize("plan", [plan_upscale(Size(w, h), "8k", "exact") for w, h in itertools.product(SIDES_PX, SIDES_PX)])
def test_they_are_within_some_percent_of_what_the_worker_says(plan: Plan) -> None:
    worker = fake_worker(resolver=Tiled())
    costs: Costs = pickle.loads(pickle.dumps(Costs.of(worker)))  # noqa: S301 - our own

    for has_alpha in (False, True):
        assert costs.work(plan, has_alpha, True) == pytest.approx(worker.work(plan, has_alpha, True), rel=0.05)
    assert costs.memory_bytes(plan) == pytest.approx(worker.memory_bytes(plan), rel=0.3)
