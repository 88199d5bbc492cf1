"""Children that end again and again."""

from __future__ import annotations

from driftloop.infra.restarts import Restarts


def die_young(restarts: Restarts, times: int, now: float) -> list[float]:
    """End it and start it so often, each time at once; return the pauses."""
    pauses: list[float] = []
    for _ in range(times):
        pause_s = restarts.ended(now)
        assert pause_s is not None
        pauses.append(pause_s)
        now += pause_s
        assert restarts.due(now)
        restarts.started(now)
    return pauses
