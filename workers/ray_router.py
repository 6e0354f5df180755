"""Which replica takes a task: any that is free. Ray's own router asks two at random, and would rarely find the one of many."""

from __future__ import annotations

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica


class FreeReplicaRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """Asks all replicas; the first that is free gets the task that has waited longest."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All of them, alike; if none is free, again a moment later."""
        if pending_request:
            pending_request.routing_context.should_backoff = True
        return [candidate_replicas]
