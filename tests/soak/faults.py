"""Inject the faults of the plan, and log each with its time: ``faults.jsonl``."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from driftloop.streams.kafka.connection import Connection

from tests.soak.aborts import fence, write_and_abort
from tests.soak.cluster import Cluster
from tests.soak.plan import Fault
from tests.soak.processes import Processes
from tests.soak.stage import SERVERS
from tests.soak.watch import Watch
from tests.support.full_disk import FullDisk
from tests.support.moved_clock import HOUR_S, MovedClocks

_TICK_S = 0.05
_VICTIM_BACK_S = 90.0
_WHOLE_S = 180.0
_AFTERMATH_S = 2.0  # so long after a fault it counts as going on
_RECOVERED_S = 25.0
_EXTRA = "join-9"
TRANSACTIONAL = {"join": "join-{}", "train": "trainer-{}"}


class FaultInjector:
    """Carries out a plan. ``start_joiner(name)`` starts one more joiner; ``check`` raises to end the run."""

    def __init__(
        self,
        connection: Connection,
        cluster: Cluster,
        processes: Processes,
        watch: Watch,
        folder: Path,
        *,
        state_dir: Path,
        check: Callable[[], None],
        partitions: dict[str, int],
        start_joiner: Callable[[str], None],
        clocks: MovedClocks | None = None,
        disk: FullDisk | None = None,
    ) -> None:
        self._connection, self._cluster, self._processes, self._watch = connection, cluster, processes, watch
        self._state_dir, self._partitions, self._start_joiner = state_dir, partitions, start_joiner
        self._check = check
        self._clocks, self._disk = clocks, disk
        self._ends: dict[str, tuple[float, Callable[[], None]]] = {}  # by what is struck: when, and how
        self._file = folder / "faults.jsonl"
        self._struck: dict[str, float] = {}
        self.done: list[dict[str, object]] = []

    def was_struck(self, server: int) -> bool:
        """Whether this server is under a fault or was just before."""
        return time.monotonic() < self._struck.get(f"serve-{server}", 0.0)

    def run(self, plan: tuple[Fault, ...]) -> None:
        for fault in plan:
            self._pass(fault.gap_s)
            self._strike(fault)
        self.settle()

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() >= until, seconds + 5)

    def settle(self) -> None:
        """Until everything runs again that should, and nothing more than that."""
        self._wait(lambda: not self._ends and self._processes.all_run(), _VICTIM_BACK_S)
        self._wait(self._cluster.whole, _WHOLE_S)

    def tick(self) -> None:
        self._processes.tick()
        self._cluster.check()
        self._check()
        now = time.monotonic()
        for name in [name for name, (ends_at, _) in self._ends.items() if now >= ends_at]:
            _, end = self._ends.pop(name)
            end()

    def _wait(self, condition: Callable[[], bool], deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while True:
            self.tick()
            if condition():
                return
            if time.monotonic() > until:
                broken = [name for name, role in self._processes.roles.items() if not role.runs]
                raise RuntimeError(f"not within {deadline_s:g} s; not running: {broken or 'brokers'}")
            time.sleep(_TICK_S)

    def _wait_if_possible(self, condition: Callable[[], bool], most_s: float) -> None:
        until = time.monotonic() + most_s
        self._wait(lambda: condition() or time.monotonic() > until, most_s + 5)

    def _strike(self, fault: Fault) -> None:
        name = f"{fault.role}-{fault.target}"
        if fault.role in ("broker", "network"):
            self._wait(self._cluster.whole, _WHOLE_S)
        elif fault.action == "add":
            self._wait(lambda: _EXTRA not in self._ends, _VICTIM_BACK_S)
        elif fault.role != "cluster":
            self._wait(lambda: self._processes.roles[name].runs, _VICTIM_BACK_S)
        if fault.role == "join" and fault.number % 2 == 0:
            # Every other time: the rest are for faults during a recovery.
            self._wait_if_possible(self._watch.all_recovered, _RECOVERED_S)
        note = fault.as_dict() | {"at": round(time.time(), 3)}
        match fault.action:
            case "kill" if fault.role == "broker":
                self._watch.disturbed()
                self._cluster.kill(fault.target + 1, fault.hold_s)
            case "stop" if fault.role == "broker":
                self._watch.disturbed()
                self._cluster.freeze(fault.target + 1, fault.hold_s)
            case _ if fault.role == "network":
                self._watch.disturbed()
                for server in range(SERVERS):
                    self._struck[f"serve-{server}"] = time.monotonic() + fault.hold_s + _AFTERMATH_S
                self._cluster.disturb(fault)
            case "clock":
                note |= self._move_clock(name, fault)
            case "full":
                note |= self._fill_disk(fault)
            case "kill":
                note |= self._hit(fault.kind, name, fault.number, fault.hold_s)
                self._processes.kill(name, fault.hold_s)
            case "wipe":
                note |= self._hit(fault.kind, name, fault.number, fault.hold_s)
                self._processes.kill(name, None)
                folder = self._state_dir / fault.role / name
                note["deleted_bytes"] = sum(
                    file.stat().st_size for file in folder.rglob("*") if file.is_file()
                )
                shutil.rmtree(folder, ignore_errors=True)
                self._processes.kill(name, fault.hold_s)
            case "stop":
                note |= self._hit(fault.kind, name, fault.number, fault.hold_s)
                self._processes.freeze(name, fault.hold_s)
            case "fence":
                note |= self._hit(fault.kind, name, fault.number, 2.0)
                note |= _tried(lambda: fence(self._connection, TRANSACTIONAL[fault.role].format(name)))
            case "add":
                self._start_joiner(_EXTRA)
                how = signal.SIGKILL if fault.number % 2 else signal.SIGTERM
                self._ends[_EXTRA] = time.monotonic() + fault.hold_s, lambda: self._remove_extra(how)
            case "aborts":
                note |= _tried(lambda: write_and_abort(self._connection, self._partitions, fault.number))
            case other:
                raise ValueError(f"no such fault: {other}")
        self.done.append(note)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")

    def _remove_extra(self, how: signal.Signals) -> None:
        self._hit("removed", _EXTRA, -1)
        self._processes.remove(_EXTRA, how)

    def _move_clock(self, name: str, fault: Fault) -> dict[str, object]:
        clocks = self._clocks
        if clocks is None or clocks.missing:
            return {"missed": "no clock is moved"}
        seconds = HOUR_S if fault.number % 2 else -HOUR_S
        clocks.move(name, seconds)
        self._ends[f"clock of {name}"] = time.monotonic() + fault.hold_s, lambda: clocks.move(name, 0)
        return {"moved_s": seconds} | self._hit(fault.kind, name, fault.number, fault.hold_s)

    def _fill_disk(self, fault: Fault) -> dict[str, object]:
        """Fill the disk of all roles; until when, the first of such faults says."""
        disk = self._disk
        if disk is None or not disk.available:
            return {"missed": "no tmpfs can be mounted"}
        self._watch.disturbed()
        self._ends.setdefault("disk", (time.monotonic() + fault.hold_s, disk.free))
        return {"used_bytes": disk.fill()}

    def _hit(self, how: str, name: str, number: int, seconds: float = 0.0) -> dict[str, object]:
        """Notes who is struck, and of a joiner which partitions wait for its successor."""
        self._struck[name] = time.monotonic() + seconds + _AFTERMATH_S
        if not name.startswith("join"):
            return {}
        try:
            owned = self._watch.owned_by(name)
        except KafkaException as error:
            return {"partitions": str(error)}  # its coordinator is just down: nobody can be asked
        how = how if seconds == 0 else f"{how} and away"
        self._watch.struck(number, how, owned, disturbed=not self._cluster.whole())
        return {"partitions": owned}


def _tried(fault: Callable[[], None]) -> dict[str, object]:
    """A fault through Kafka misses where a broker is just down: it is logged, and nobody is to blame."""
    try:
        fault()
    except KafkaException as error:
        return {"missed": str(error)}
    return {}
