"""The roles that can be simulated."""

from __future__ import annotations

import logging
from typing import Protocol

from tests.simulation.joiner import simulate_join
from tests.simulation.monitor import simulate_monitor
from tests.simulation.run import SimulatedRun
from tests.simulation.trainer import simulate_trainer


class Simulate(Protocol):
    def __call__(self, seed: int, *, lines: bool = False) -> SimulatedRun: ...


ROLES: dict[str, Simulate] = {"join": simulate_join, "monitor": simulate_monitor, "train": simulate_trainer}


def run_seed(role: str, seed: int) -> SimulatedRun:
    """Run one seed of a role, quietly."""
    logging.disable(logging.CRITICAL)
    try:
        return ROLES[role](seed)
    finally:
        logging.disable(logging.NOTSET)
