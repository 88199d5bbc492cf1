"""Puts the simulated clients and clock in the place of the real ones, in every module of ``streams``.

The shells run as they are: each module's own names for confluent-kafka's clients and for ``time`` are
exchanged for the duration of a run.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
from confluent_kafka import admin

from tests.simulation.client.admin import AdminClient
from tests.simulation.client.consumer import Consumer
from tests.simulation.client.producer import Producer
from tests.simulation.client.simulated import Simulation, present
from tests.simulation.clock import VirtualTime


class _NoCollection:
    """Stands in for ``gc``: a run is short, and its process is not the joiner's own."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_arguments: False if name == "isenabled" else None


@contextmanager
def installed(simulation: Simulation, others: dict[Any, Any]) -> Generator[None]:
    """Run with this simulation. ``others``: real object → what stands in for it."""
    stand_ins: list[tuple[Any, Any]] = [
        (confluent_kafka.Consumer, Consumer),
        (confluent_kafka.Producer, Producer),
        (admin.AdminClient, AdminClient),
        (time, VirtualTime(simulation.world)),
        (gc, _NoCollection()),
        *others.items(),
    ]
    by_id = {id(real): stand_in for real, stand_in in stand_ins}
    changed: list[tuple[dict[str, Any], str, Any]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("driftloop.streams."):
            names = vars(module)
            for attribute, value in list(names.items()):
                if id(value) in by_id:
                    changed.append((names, attribute, value))
                    names[attribute] = by_id[id(value)]
    try:
        with present(simulation):
            yield
    finally:
        for names, attribute, value in changed:
            names[attribute] = value
