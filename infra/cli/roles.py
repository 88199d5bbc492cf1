"""The roles that run alone: ``driftloop join``, ``monitor`` and ``train``."""

from __future__ import annotations

import signal
import socket
import threading
from types import FrameType

from ..settings import Settings
from .console import errors
from .kafka import awaited

_STOPPING = (signal.SIGTERM, signal.SIGINT)


def join() -> None:
    """Join predictions with labels, exactly once: outcomes and vitals."""
    from ...streams.join.config import JoinTuning
    from ...streams.join.shell import run_joiner
    from ...streams.join.stats import JoinStats
    from ..metrics.catalogue import Metrics
    from ..metrics.joiner import join_readings

    settings = Settings()
    instance = settings.instance("join")
    stop, stats = stop_on_signals(), JoinStats()
    _announce("join", instance)
    if settings.metrics_port is not None:
        metrics = Metrics()
        metrics.read_with(lambda: join_readings(stats))
        metrics.serve(settings.metrics_host, settings.metrics_port)
    connection = awaited(settings, "join", stop)
    if stop.is_set():
        return
    run_joiner(
        connection,
        state_dir=settings.state_dir / "join" / instance,
        instance_id=instance,
        stop=stop,
        store_url=settings.store_url() if settings.checkpoint_interval_s else None,
        tuning=JoinTuning(
            checkpoint_interval_s=settings.checkpoint_interval_s,
            checkpoints_kept=settings.checkpoints_kept,
            linger_s=settings.join_linger_ms / 1000,
            memory_ids=settings.join_memory_ids,
            cache_mb=settings.join_cache_mb,
        ),
        stats=stats,
    )


def monitor() -> None:
    """Watch vitals for drift and trigger retraining."""
    from ...streams.monitor.faust.app import run_monitor

    settings = Settings()
    instance = settings.instance("monitor")
    _announce("monitor", instance)
    run_monitor(awaited(settings, "monitor"), instance_id=instance, clock=settings.clock)


def train() -> None:
    """Retrain on triggers, prove, publish; carry out people's commands."""
    from ...streams.train.shell import TrainerConfig, run_trainer

    settings = Settings()
    instance = settings.instance("train")
    _announce("train", instance)
    config = TrainerConfig(
        store_url=settings.store_url(),
        keys_dir=settings.keys_path(),
        state_dir=settings.state_dir / "train" / instance,
        instance_id=instance,
        clock=settings.clock,
        custom_learners=settings.allowed_learners(),
    )
    stop = stop_on_signals()
    connection = awaited(settings, "train", stop)
    if not stop.is_set():
        run_trainer(connection, config, stop)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set, whatever the main thread is doing.

    Python runs signal handlers in the main thread only, between two bytecode instructions, and a call of
    librdkafka that waits for a broker (``send_offsets_to_transaction``, far beyond its timeout) is one
    instruction. So another thread listens on the wake-up socket.
    """
    stop = threading.Event()
    receiving, sending = socket.socketpair()
    sending.setblocking(False)

    def listen() -> None:
        while receiving.recv(1)[0] not in _STOPPING:
            continue
        stop.set()

    signal.set_wakeup_fd(sending.detach())
    for number in _STOPPING:
        signal.signal(number, _ignore)
    threading.Thread(target=listen, name="driftloop-signals", daemon=True).start()
    return stop


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing: without a handler the signal would not reach the wake-up socket."""


def _announce(role: str, instance: str) -> None:
    errors.print(f"{role}: instance {instance} starting", highlight=False)
