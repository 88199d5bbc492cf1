"""Sending a person's command to the registrar, and waiting for its result."""

from __future__ import annotations

import getpass
import os
import time
import uuid
from contextlib import closing

from confluent_kafka import Producer
from pydantic import ValidationError

from ...schemas.decisions import Action, Command, CommandResult
from ...schemas.errors import DecodeError, Error
from ...schemas.reasons.validation import first_reason
from ...schemas.topics import COMMAND_RESULTS, COMMANDS
from ...streams.kafka.connection import Connection
from ...streams.kafka.reader import LogReader, newest


def command(
    model: str,
    action: Action,
    *,
    why: str = "",
    by: str | None = None,
    generation: int | None = None,
    version: int | None = None,
    trigger_id: str | None = None,
    manifest_sha256: str | None = None,
) -> Command:
    """Make a command of the person who runs this process, as of now. Raises Error for invalid values."""
    try:
        return Command(
            command_id=f"command-{uuid.uuid4().hex[:16]}",
            model=model,
            action=action,
            ts=time.time_ns() // 1_000_000,
            by=by or person(),
            why=why,
            generation=generation,
            version=version,
            trigger_id=trigger_id,
            manifest_sha256=manifest_sha256,
        )
    except ValidationError as error:
        raise Error(first_reason(action, error)) from error


def person() -> str:
    """Who runs this process; in containers often only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def send(connection: Connection, wanted: Command, *, timeout_s: float = 30.0) -> CommandResult:
    """Send a command and wait for the registrar's result.

    Raises Error with the reason of a refusal, or if nobody answers in time (the command stays on the topic
    and is carried out when a trainer runs).
    """
    with closing(LogReader(connection, (COMMAND_RESULTS,), start=newest(0))) as reader:
        for _ in reader.catch_up():
            pass
        producer = Producer(connection.producer())
        producer.produce(connection.topic(COMMANDS), key=wanted.model, value=wanted.encode())
        producer.flush(timeout_s)
        return _await_result(reader, wanted, timeout_s)


def _await_result(reader: LogReader, wanted: Command, timeout_s: float) -> CommandResult:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for record in reader.poll(0.1):
            try:
                result = CommandResult.decode(record.value or b"")
            except DecodeError:
                continue  # not an answer to anything
            if result.command_id == wanted.command_id:
                if result.status == "refused":
                    raise Error(f"{wanted.action} {wanted.model} was refused: {result.reason}")
                return result
    raise Error(
        f"no answer to {wanted.action} {wanted.model} ({wanted.command_id}) within {timeout_s:g} s: is a "
        "trainer running (`driftloop train`)? The command waits on the topic until one does"
    )
