"""What the tests of the Kafka kit share."""

from __future__ import annotations

import pytest
from driftloop.streams.kafka.connection import Connection

from tests.support.kafka.late_network import LateNetwork


@pytest.fixture
def late(topics: Connection, network: LateNetwork) -> Connection:
    """The test's topics, reached through the network."""
    return Connection(network.address, topics.prefix, {"reconnect.backoff.max.ms": "150"})
