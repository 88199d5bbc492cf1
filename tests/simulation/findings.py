"""What is wrong with a run: records against the oracle, transactions by the names of Jepsen's reports."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import orjson
from driftloop.schemas.decisions import Command, CommandResult, Trigger
from driftloop.schemas.events import DeadLetter, Outcome
from driftloop.schemas.runs import TERMINAL, TrainingRun
from driftloop.schemas.spec.model import Join
from driftloop.schemas.topics import (
    COMMAND_RESULTS,
    COMMANDS,
    DEAD_LETTERS,
    DRIFT,
    LABELS,
    MONITOR_STATE,
    OUTCOMES,
    PREDICTIONS,
    TRAINING_RUNS,
    TRIGGERS,
    VITALS,
    Topic,
)
from driftloop.schemas.vitals import Vitals
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.core import VitalsCore
from driftloop.streams.monitor.snapshots import newest_snapshot

from tests.simulation.broker.log import Entry
from tests.simulation.client.simulated import Simulation
from tests.support.join.oracle import identity_of, oracle
from tests.support.join.world import LoggedRecord, errors_of, totals_of

KINDS = (
    "lost", "duplicate", "wrong",  # outcomes, dead letters
    "lost write", "aborted read", "torn",  # transactions
    "offset went back", "inconsistent",  # offsets; vitals and seqs
    "stuck", "crash",
)  # fmt: skip

_EMITTED = (DRIFT, TRIGGERS, DEAD_LETTERS)
CLOSING = b'{"prediction_id":"end-'  # of the records that only let time pass


@dataclass
class RunFindings:
    """Examples by kind; none: the run is clean."""

    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def add(self, kind: str, example: object) -> None:
        assert kind in KINDS
        self.examples.setdefault(kind, []).append(str(example))

    def add_repeated(self, what: str, counts: Mapping[Any, int]) -> None:
        for key, count in counts.items():
            if count > 1:
                self.add("duplicate", f"{what} {key} {count} times")

    def __bool__(self) -> bool:
        return bool(self.examples)


def check_join(simulation: Simulation, connection: Connection, join: Join, findings: RunFindings) -> None:
    """Compare what the joiner wrote with what the oracle expects of the whole logs."""
    check_transactions(simulation, findings)
    entries = partial(_entries, simulation, connection)
    logged = {topic: [_logged(e) for _, e in entries(topic)] for topic in (PREDICTIONS, LABELS)}
    expected = oracle(logged[PREDICTIONS], logged[LABELS], join)
    outcomes = [(p, Outcome.decode(_value(e))) for p, e in entries(OUTCOMES)]
    found = Counter((identity_of(o), o.revision) for _, o in outcomes)
    findings.add_repeated("outcome", found)
    for key in expected.outcomes.keys() - found.keys():
        findings.add("lost", f"outcome {key}")
    for _, o in outcomes:
        label_and_error = o.correct if o.label is None else o.label, o.error_value
        if expected.outcomes.get((identity_of(o), o.revision)) != label_and_error:
            findings.add("wrong", f"outcome {identity_of(o)} revision {o.revision}: {label_and_error}")
    _check_dead_letters(
        [DeadLetter.decode(_value(e)) for _, e in entries(DEAD_LETTERS)],
        entries(LABELS),
        expected.unreached_labels | expected.refused_labels,
        connection.topic(LABELS),
        findings,
    )
    first = [(p, o) for p, o in outcomes if o.revision == 0]
    for number in sorted({p for p, _ in first}):
        seqs = [o.seq for p, o in first if p == number]
        if seqs != list(range(len(seqs))):
            findings.add("inconsistent", f"seqs of partition {number}: {seqs}")
    vitals = [Vitals.decode(_value(e)) for _, e in entries(VITALS)]
    totals = totals_of(vitals)
    if totals["outcomes"] != len(first) or totals["corrected"] != len(outcomes) - len(first):
        findings.add(
            "inconsistent", f"vitals count {dict(totals)}, {len(first)} of {len(outcomes)} are first"
        )
    repeats = expected.repeats_of_predictions + expected.repeats_of_labels
    accepted = len(logged[PREDICTIONS]) - expected.repeats_of_predictions - len(expected.refused_predictions)
    if totals["predictions"] != accepted or totals["duplicate"] != repeats:
        findings.add("inconsistent", f"vitals count {dict(totals)}: not {accepted} and {repeats} repeated")
    errors = {(p, o.seq): o.error_value for p, o in first if o.error_value is not None}
    try:
        if errors_of(vitals) != errors:
            findings.add("inconsistent", "vitals tell other errors than outcomes")
    except AssertionError:
        findings.add("duplicate", "an error is in vitals twice")


def check_transactions(simulation: Simulation, findings: RunFindings) -> None:
    """Compare what clients know of their transactions with what the broker made of them."""
    logs, groups = simulation.cluster.logs.values(), simulation.cluster.groups.values()
    found: defaultdict[int, set[bool | None]] = defaultdict(set)
    of_records = (entry.fate for log in logs for entry in log.entries if entry.fate is not None)
    for fate in chain(of_records, *(group.fates for group in groups)):
        found[fate.transaction].add(fate.committed)
    for transaction, fates in sorted(found.items()):
        if len(fates) > 1:
            findings.add("torn", f"transaction {transaction}: {fates}")
        if True in fates and transaction in simulation.given_up:
            findings.add("aborted read", f"transaction {transaction}")
        if False in fates and transaction in simulation.acknowledged:
            findings.add("lost write", f"transaction {transaction}")
    for group in groups:
        for step in group.went_back:
            findings.add("offset went back", step)


def _check_dead_letters(
    dead_letters: list[DeadLetter],
    labels: list[tuple[int, Entry]],
    unreached: set[int],
    name: str,
    findings: RunFindings,
) -> None:
    """``unreached``: which of the labels, in topic ``name``, must be dead letters."""
    places = Counter((one.topic, one.partition, one.offset) for one in dead_letters)
    findings.add_repeated("dead letter of", places)
    for index in sorted(unreached):
        number, entry = labels[index]
        announced = places.pop((name, number, entry.offset), 0)
        if not announced and not _value(entry).startswith(CLOSING):  # there is no time for those to expire
            findings.add("lost", f"dead letter of {name}[{number}]@{entry.offset}")
    for place in places:
        if place[0] == name:
            findings.add("wrong", f"dead letter of {place}, which met its prediction")


def _entries(simulation: Simulation, connection: Connection, topic: Topic) -> list[tuple[int, Entry]]:
    """Every committed record with its partition."""
    name = connection.topic(topic)
    partitions = range(simulation.cluster.partitions[name])
    return [
        (number, entry) for number in partitions for entry in simulation.cluster.logs[name, number].read()
    ]


def _logged(entry: Entry) -> LoggedRecord:
    return LoggedRecord(orjson.loads(_value(entry)), entry.append_ms)


def _value(entry: Entry) -> bytes:
    assert entry.sent is not None
    return entry.sent.value or b""


def check_monitor(simulation: Simulation, connection: Connection, findings: RunFindings) -> int:
    """Compare events and snapshots with those of one replay of vitals. Returns how many events there are."""
    logs = {
        topic: simulation.cluster.logs[connection.topic(topic), 0] for topic in (*_EMITTED, MONITOR_STATE)
    }
    core, states, expected = VitalsCore(0), dict[int, bytes](), list[tuple[int, Topic, bytes]]()
    vitals = simulation.cluster.logs[connection.topic(VITALS), 0]
    for entry in vitals.read():
        for event in core.apply(_value(entry), offset=entry.offset, append_time_ms=entry.append_ms):
            expected.append((entry.offset, event.topic, event.value))
        states[entry.offset] = core.snapshot()
    written = {topic: [_value(entry) for entry in logs[topic].entries] for topic in _EMITTED}
    wanted = {topic: [value for _, to, value in expected if to is topic] for topic in _EMITTED}
    for topic in _EMITTED:
        for value in wanted[topic]:
            if value not in written[topic]:
                findings.add("lost", f"{topic.name}: {value[:200]!r}")
        for value in written[topic]:
            if value not in wanted[topic]:
                findings.add("wrong", f"{topic.name}: {value[:200]!r}")
        if list(dict.fromkeys(written[topic])) != wanted[topic] and not findings:
            findings.add("inconsistent", f"{topic.name}: events in another order")
    for entry in logs[MONITOR_STATE].entries:
        snapshot = newest_snapshot([_value(entry)])
        if snapshot is None or states.get(snapshot.applied_offset) != snapshot.data:
            findings.add("wrong", f"snapshot {entry.offset} is no state of the log")
            continue
        for offset, topic, value in expected:
            written_ms = [e.append_ms for e in logs[topic].entries if _value(e) == value]
            if offset <= snapshot.applied_offset and not (written_ms and min(written_ms) <= entry.append_ms):
                findings.add(
                    "torn", f"the snapshot at {snapshot.applied_offset} came before an event of {offset}"
                )
    return len(expected)


def check_trainer(simulation: Simulation, connection: Connection, findings: RunFindings) -> int:
    """Each command has one result, and each trigger one run, which ends once. Returns how many there are."""
    check_transactions(simulation, findings)

    def values(topic: Topic) -> list[bytes]:
        return [_value(entry) for _, entry in _entries(simulation, connection, topic)]

    commands = [Command.decode(value).command_id for value in values(COMMANDS)]
    results = Counter(CommandResult.decode(value).command_id for value in values(COMMAND_RESULTS))
    _each_once("result of", commands, results, findings)
    triggers = [Trigger.decode(value).trigger_id for value in values(TRIGGERS)]
    runs = [TrainingRun.decode(value) for value in values(TRAINING_RUNS)]
    first = [run for run in runs if run.stage == 0]
    ended = Counter(run.trigger_id for run in first if run.status in TERMINAL)
    _each_once("end of the run of", triggers, ended, findings)
    starts = Counter((run.run_id, run.attempt, run.status) for run in runs)
    findings.add_repeated("run", starts)
    return len(commands) + len(triggers)


def _each_once(what: str, wanted: list[str], found: Counter[str], findings: RunFindings) -> None:
    for one in wanted:
        if found[one] == 0:
            findings.add("lost", f"{what} {one}")
    findings.add_repeated(what, {one: found[one] for one in wanted})
