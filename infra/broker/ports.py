"""Ports for the embedded broker's nodes."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

from ...schemas.errors import BrokerError
from .config import Node

# Below the range that the kernel takes for outgoing connections (32768 up on Linux): a JVM binds a second
# after its port was chosen, and a restarted node needs its old one again.
_FREE_RANGE = range(20_000, 32_000)
_TRIES = 200


def place(count: int, port: int | None) -> tuple[Node, ...]:
    """Nodes with ports: broker ports from ``port`` up, or free ones; controller ports are always free ones.

    Raises BrokerError if a requested port is taken.
    """
    with contextlib.ExitStack() as held:  # all at once, so that no two are the same
        chosen = random.SystemRandom().sample(_FREE_RANGE, _TRIES)
        free = (number for number in chosen if _hold(number, held) is None)
        if port is None:
            brokers = [_next(free) for _ in range(count)]
        else:
            brokers = [port + index for index in range(count)]
            for number in brokers:
                if (why := _hold(number, held)) is not None:
                    raise BrokerError(f"port {number} is taken ({why}): name another one, or none at all")
        return tuple(Node(index + 1, brokers[index], _next(free)) for index in range(count))


def listens(node: Node) -> bool:
    """Whether something accepts connections at the node's address."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", node.port)) == 0


def why_taken(node: Node) -> str | None:
    """Why a node that does not run could not have its ports; None if it could."""
    with contextlib.ExitStack() as held:
        for number in (node.port, node.controller_port):
            if (why := _hold(number, held)) is not None:
                return f"port {number} is taken ({why})"
    return None


def _hold(number: int, held: contextlib.ExitStack) -> str | None:
    """Bind the port until ``held`` closes; return why not if that fails."""
    server = held.enter_context(socket.socket())
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", number))
    except (OSError, OverflowError) as error:
        return str(error)
    return None


def _next(free: Iterator[int]) -> int:
    found = next(free, None)
    if found is None:
        raise BrokerError(f"no free port between {_FREE_RANGE.start} and {_FREE_RANGE.stop} on 127.0.0.1")
    return found
