"""An embedded broker that stops after the clients of its tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.broker.security import BrokerSecurity


@contextmanager
def embedded(folder: Path, security: BrokerSecurity | None = None) -> Iterator[EmbeddedBroker]:
    """A small broker of one node.

    A client with callbacks is part of a reference cycle, so it ends when garbage is collected. Until then it
    would look for the stopped broker, and librdkafka would write every refused connection to stderr.
    """
    with EmbeddedBroker(folder, heap_mb=384, security=security) as started:
        try:
            yield started
        finally:
            gc.collect()
