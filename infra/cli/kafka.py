"""How the commands reach Kafka: those of a person ask for a moment, the roles wait for it."""

from __future__ import annotations

import threading

from ...streams.kafka.connection import Connection
from ...streams.kafka.reach import reach
from ..settings import Settings
from .console import errors

COMMAND_WAITS_S = 10.0
ROLE_WAITS_S = 30.0  # a Kafka that is started together with the role


def reached(settings: Settings) -> Connection:
    """The connection, once Kafka answers. Raises SettingsError, BrokerError."""
    connection = settings.connection()
    reach(connection, COMMAND_WAITS_S)
    return connection


def awaited(settings: Settings, role: str, stop: threading.Event | None = None) -> Connection:
    """As ``reached``, for a role: it waits longer, and says so. With ``stop`` set it returns at once."""
    connection = settings.connection()
    reach(
        connection,
        ROLE_WAITS_S,
        waiting=lambda line: errors.print(f"{role}: {line}", highlight=False, markup=False, soft_wrap=True),
        stop=stop,
    )
    return connection
