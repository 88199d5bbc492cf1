"""The monitor's process: a Faust app whose agent feeds vitals to cores, in-process and without a web server.

Faust provides the consumer group, rebalancing, the agent and the timers. State and offsets are the shell's
and its snapshots', because Faust's tables and offset bookkeeping lose or repeat records when the process is
killed during transactions (see docs/decisions).

On failure: an error in the agent, a timer or the consumer ends ``run_monitor`` with MonitorCrashed; the next
start resumes at the newest snapshot.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import replace
from typing import cast

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from faust.types import TP, EventT, StreamT

from ....schemas.errors import BrokerError, Error, TopicError
from ....schemas.topics import DEAD_LETTERS, DRIFT, MONITOR_STATE, TRIGGERS, VITALS, Topic
from ...kafka.connection import Connection
from ...kafka.log_limit import is_defect
from ...kafka.stop_deadline import StopDeadline
from ..core import Clock, VitalsCore
from ..partition import Core, LinkedMessage
from ..shell import MonitorSettings, MonitorShell
from .settings import client_settings
from .transport import MonitorApp

log = logging.getLogger(__name__)

GROUP = "monitor"
MAX_RECORD_BYTES = 4 * 1024 * 1024 - 1024  # the catalogue's max.message.bytes, less a record's own overhead
_ASK_S = 30.0
_CRASH_S = 2.0  # after a crash, Faust's own stop sometimes hangs
_NEEDED: tuple[Topic, ...] = (VITALS, MONITOR_STATE, DRIFT, TRIGGERS, DEAD_LETTERS)


class MonitorCrashed(Error):
    """The monitor stopped because something in it failed; start it again, it resumes at its snapshot."""


def run_monitor(
    connection: Connection,
    *,
    instance_id: str,
    clock: Clock = "append",
    make_core: Callable[[int], Core] | None = None,
    restore_core: Callable[[bytes], Core] = VitalsCore.restore,
    settings: MonitorSettings | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. Blocking; main thread only.

    ``instance_id`` is the static membership: a restarted process takes its partitions back at once.
    ``clock`` "event" writes no ticks. ``make_core(partition)`` makes an empty core and
    ``restore_core(snapshot)`` one from its bytes; by default VitalsCore.
    Once asked to stop it ends within ``settings.stop_s``, by force if Kafka does not answer.
    Raises MonitorCrashed, TopicError (topics missing), SettingsError, BrokerError.
    """
    settings = settings or MonitorSettings()
    if clock == "event":
        settings = replace(settings, idle_tick_s=None)
    check_topics(connection)
    make_core = make_core or (lambda partition: VitalsCore(partition, clock=clock))
    shell = MonitorShell(connection, make_core, restore_core, settings)
    app = build_app(connection, instance_id, shell, settings)
    deadline = StopDeadline()
    try:
        asyncio.run(_serve(app, shell, deadline, settings.stop_s))
    finally:
        deadline.disarm()


def check_topics(connection: Connection) -> None:
    """Raise TopicError when a topic the monitor needs is missing, BrokerError without an answer."""
    try:
        found = AdminClient(connection.client()).list_topics(timeout=_ASK_S).topics
    except KafkaException as error:
        raise BrokerError(f"no Kafka at {connection.bootstrap_servers}: {error.args[0]}") from error
    missing = [connection.topic(topic) for topic in _NEEDED if connection.topic(topic) not in found]
    if missing:
        raise TopicError(
            f"topics are missing: {', '.join(missing)}; create them with `driftloop topics apply`"
        )
    vitals, state = (len(found[connection.topic(topic)].partitions) for topic in (VITALS, MONITOR_STATE))
    if state < vitals:
        raise TopicError(
            f"monitor-state has {state} partitions but vitals {vitals}: it needs at least as many"
        )


def build_app(
    connection: Connection, instance_id: str, shell: MonitorShell, settings: MonitorSettings
) -> MonitorApp:
    """The Faust app: one agent over vitals, one timer. Not started."""
    app = MonitorApp(
        connection.group(GROUP),
        **client_settings(connection),
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        table_standby_replicas=0,  # else Faust replaces round robin by its own assignor
        topic_disable_leader=True,
        consumer_group_instance_id=instance_id,
        consumer_auto_offset_reset="none",  # retention overtaking us must be an error (see transport)
        consumer_max_fetch_size=MAX_RECORD_BYTES,
        broker_session_timeout=settings.session_s,
        broker_heartbeat_interval=settings.session_s / 5,
        broker_rebalance_timeout=30.0,
        broker_commit_interval=settings.progress_s,
        broker_max_poll_records=64,
        stream_buffer_maxsize=64,  # vitals may weigh 512 KiB each
        stream_wait_empty=False,  # MonitorShell.release waits for what is in flight
        producer_acks=-1,
        producer_max_request_size=MAX_RECORD_BYTES + 1024,
    )
    app.shell, shell.client = shell, _FaustClient(app)
    # acks=False: no offset bookkeeping by Faust, which goes wrong where transactions leave gaps.
    vitals = app.topic(connection.topic(VITALS), value_serializer="raw", key_serializer="raw", acks=False)

    async def follow(stream: StreamT[bytes]) -> None:
        async for event in cast("AsyncIterable[EventT[bytes]]", stream.events()):
            try:
                await shell.on_message(cast(LinkedMessage, event.message))
            except Exception as error:
                # Raising alone would make Faust drop the record and go on: the app must end.
                await app.crash(error)
                raise

    async def keep_time() -> None:
        try:
            await shell.keep_time()
        except Exception as error:  # as above: a timer that fails must end the app
            await app.crash(error)
            raise

    async def on_revoked(_app: object, revoked: set[TP], *_: object, **__: object) -> None:
        await shell.release(frozenset(revoked))

    app.agent(vitals, name="follow-vitals")(follow)
    app.timer(interval=1.0, name="keep-time")(keep_time)
    app.on_partitions_revoked.connect(on_revoked)
    return app


class _FaustClient:
    """The app's producer and consumer, as the shell uses them."""

    def __init__(self, app: MonitorApp) -> None:
        self._app = app

    async def send(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None
    ) -> Awaitable[object]:
        return await self._app.producer.send(topic, key, value, partition, None, None)

    async def seek(self, tp: TP, offset: int) -> None:
        consumer = self._app.consumer
        if tp in consumer.assignment():  # else a rebalance is in progress, which seeks itself
            await consumer.seek_wait({tp: offset})


async def _serve(app: MonitorApp, shell: MonitorShell, deadline: StopDeadline, stop_s: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app.finalize()
    try:
        await _run_until(app, stop)
        if app.crash_reason is None:
            deadline.arm(stop_s, exit_code=0)
            await shell.release_all()
        elif is_defect(app.crash_reason):
            log.error("the monitor failed", exc_info=app.crash_reason)
    finally:
        deadline.arm(_CRASH_S, exit_code=1)
    await app.stop()
    if app.crash_reason is not None:
        raise MonitorCrashed(f"the monitor failed: {_shown(app.crash_reason)}") from app.crash_reason


def _shown(error: BaseException) -> str:
    return str(error) if isinstance(error, Error) else repr(error)


async def _run_until(app: MonitorApp, stop: asyncio.Event) -> None:
    """Start, and run until ``stop`` is set or the app has crashed."""
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(app.start())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await starting
        await app.wait(stopping)
