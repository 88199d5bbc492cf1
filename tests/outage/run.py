"""One outage: roles and traffic, kill -9 of the only broker, its return, rest, checks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from driftloop.infra.broker.embedded import EmbeddedBroker

from tests.outage.asking import Asking
from tests.outage.check import check
from tests.soak.processes import Processes
from tests.soak.quiet import Inputs, monitor_is_done, pause, wait_for
from tests.soak.stage import Run, Stage, publish
from tests.soak.traffic.http import health

_READY_S = 120.0
_CATCH_UP_S = 300.0
_STOP_S = 5.0
_KILL_S = 20.0
_LOOK_EVERY_S = 1.0
_OFF_DISK_S = 120.0
_SPILL_MB = 16
_ROLES = {"join-0": "join", "monitor-0": "monitor", "train-0": "train"}

Say = Callable[[str], None]


def outage(run: Run, before_s: float, say: Say) -> dict[str, object]:
    """``run.seconds`` without Kafka, after ``before_s`` with it. Gives all figures."""
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    begin = time.monotonic()
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(run.folder / "broker", heap_mb=384))
        settings = run.settings(broker.bootstrap_servers)
        connection = publish(run, settings)
        stage = Stage(run, settings, run.folder / "logs")
        processes = stage.processes
        processes.environment = {**processes.environment, "DRIFTLOOP_SPILL_MB": str(_SPILL_MB)}
        stack.callback(processes.stop)
        for name, role in _ROLES.items():
            processes.add(name, "driftloop", role)
        stage.start_servers()
        stage.wait_ready(_READY_S)
        askers = [Asking(f"s{index}", port, 1 / run.rate) for index, port in enumerate(stage.ports)]
        for asker in askers:
            asker.start()
        pause(before_s, processes.tick)
        say(f"Kafka is killed after {time.monotonic() - begin:.0f} s")
        gone = time.monotonic()
        broker.kill_node(1)
        seen = _endure(run, gone, stage.ports, processes)
        stops = _stop_roles(processes)
        say(f"roles stopped in the outage within {stops} s; Kafka comes back")
        broker.start_node(1)
        back = time.monotonic()
        for name, role in _ROLES.items():
            processes.add(name, "driftloop", role)
        wait_for(lambda: _on_disk(run) == 0, _OFF_DISK_S, "what is on disk is sent", processes.tick)
        delivered_s = time.monotonic() - back
        for asker in askers:
            asker.end()
        ledgers = [asker.ledger for asker in askers]
        server_stops = processes.stop(lambda name: name.startswith("serve-"))  # flushes what is in memory
        inputs = Inputs(connection, run.data_partitions)
        stack.callback(inputs.close)
        wait_for(lambda: inputs.behind() == 0, _CATCH_UP_S, "the joiner catches up", processes.tick)
        wait_for(partial(monitor_is_done, connection), _CATCH_UP_S, "the monitor catches up", processes.tick)
        caught_up_s = time.monotonic() - back
        answers = [one for ledger in ledgers for one in ledger.predictions]
        crashes = [f"{one.name} {one.code}: {one.last_words}" for one in processes.ended if one.code != 1]
        took = {**stops, **{f"{name} (Kafka back)": took for name, took in server_stops.items()}}
        return {
            "outage_s": round(back - gone, 1),
            "answered_before": sum(one.at < gone for one in answers),
            "answered_in_outage": sum(gone <= one.at < back for one in answers),
            "labels": sum(len(ledger.labels) for ledger in ledgers),
            "p99_before_ms": _p99_ms([one.seconds for one in answers if one.at < gone]),
            "p99_in_outage_ms": _p99_ms([one.seconds for one in answers if gone <= one.at < back]),
            **seen,
            "spill_limit_bytes": _SPILL_MB * 1024 * 1024 * len(askers),
            "delivered_s": round(delivered_s, 1),
            "caught_up_s": round(caught_up_s, 1),
            "stop_s": took,
            "exits_in_outage": [f"{one.name} code {one.code}" for one in processes.ended],
            "failed_requests": sum(len(ledger.failures) for ledger in ledgers),
            "failures": [failure for ledger in ledgers for failure in ledger.failures][:10],
            "slow_stops": sum(seconds > _STOP_S for seconds in took.values()),
            "crashes": len(crashes),
            "crashed": crashes[:5],
            **check(connection, run.data_partitions, ledgers),
        }


def _endure(run: Run, gone: float, ports: Sequence[int], processes: Processes) -> dict[str, object]:
    """Looks at disk and health until the outage is over."""
    most = not_live = looks = ready = 0
    while time.monotonic() - gone < run.seconds:
        pause(_LOOK_EVERY_S, processes.tick)
        most = max(most, _on_disk(run))
        for port in ports:
            looks += 1
            not_live += health(port, "live") != 200
            ready += health(port, "ready") == 200
    limit = _SPILL_MB * 1024 * 1024 * len(ports)
    return {
        "most_on_disk_bytes": most,
        "never_spilled": int(most == 0),
        "over_limit": int(most > limit),
        "health_looks": looks,
        "not_live": not_live,
        "ready_in_outage": ready,
    }


def _stop_roles(processes: Processes) -> dict[str, float]:
    """SIGTERM, while there is no Kafka, to all that is not a server. Seconds to the end of each."""
    begin, took = time.monotonic(), dict[str, float]()
    running = {
        name: role.process for name in _ROLES if (role := processes.roles.pop(name)).process is not None
    }
    for process in running.values():
        process.terminate()
    while running and time.monotonic() - begin < _KILL_S:
        for name in [name for name, process in running.items() if process.poll() is not None]:
            took[name] = round(time.monotonic() - begin, 2)
            del running[name]
        time.sleep(0.02)
    for name, process in running.items():
        process.kill()
        process.wait()
        took[name] = float("inf")
    return took


def _on_disk(run: Run) -> int:
    total = 0
    for file in run.state_dir.glob("**/spill/*.spill"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # sent in the meantime
            continue
    return total


def _p99_ms(seconds: Sequence[float]) -> float:
    return round(sorted(seconds)[int(len(seconds) * 0.99)] * 1000, 2) if seconds else 0.0
