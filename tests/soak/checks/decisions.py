"""Decisions: the monitor's state and events against an offline replay of vitals; runs and versions."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

import orjson
from driftloop.schemas.topics import DRIFT, MODEL_UPDATES, TRAINING_RUNS, TRIGGERS, VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.core import VitalsCore
from driftloop.streams.monitor.snapshots import find_resume_point
from driftloop.streams.monitor.state import encode_state
from driftloop.streams.train.run_lifecycle import TRANSITIONS

from tests.soak.checks.findings import Findings
from tests.soak.checks.logs import read
from tests.support.kafka.topics import read_topic
from tests.support.monitor.emitted import Place, emitted_events, place_of

_MOVES = {(start, end) for (start, _), end in TRANSITIONS.items()}


def check_monitor(connection: Connection, partitions: int, findings: Findings) -> dict[str, int]:
    """Replays the committed vitals and holds snapshots and events to it."""
    expected: defaultdict[Place, list[bytes]] = defaultdict(list)
    behind = 0
    for number in range(partitions):
        point = find_resume_point(connection, number)
        got = VitalsCore(number) if point.snapshot is None else VitalsCore.restore(point.snapshot.data)
        core, compared = VitalsCore(number), False
        for line in read(connection, VITALS, number):
            if line.offset > got.applied_offset and not compared:
                compared = True
                _compare_states(number, core, got, findings)
            if line.offset > got.applied_offset and b'"control":"tick"' not in line.value[:40]:
                behind += 1
                findings.add("detector_mismatch", f"vitals[{number}]@{line.offset} is in no snapshot")
            for event in core.apply(line.value, offset=line.offset, append_time_ms=line.append_ms):
                expected[place_of(event, number)].append(event.value)
        if not compared:
            _compare_states(number, core, got, findings)
    found = emitted_events(connection, partitions)
    for example in (*found.forked, *found.misrouted):
        findings.add("forked_events", example)
    for example in found.differences(expected):
        findings.add("detector_mismatch", example)
    return {
        "monitor_behind": behind,
        "drifts": found.counts[DRIFT.name],
        "triggers": found.counts[TRIGGERS.name],
        "events_repeated": found.repeated,
    }


def _compare_states(number: int, core: VitalsCore, got: VitalsCore, findings: Findings) -> None:
    if core.applied_offset != got.applied_offset:
        findings.add(
            "detector_mismatch",
            f"vitals[{number}]: the snapshot is at {got.applied_offset}, the replay at {core.applied_offset}",
        )
    true, got_states = _states(core), _states(got)
    for model in sorted(true.keys() | got_states.keys()):
        if true.get(model) != got_states.get(model):
            findings.add("detector_mismatch", f"vitals[{number}] {model}: state differs from the replay's")


def _states(core: VitalsCore) -> dict[str, bytes]:
    return {model: encode_state(state) for model, state in core.models.items()}


def check_runs(connection: Connection, findings: Findings) -> dict[str, int]:
    """Each run moves forward and ends once; each model's generations and versions have no gap and no fork."""
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in read_topic(connection, TRAINING_RUNS):
        run: dict[str, Any] = orjson.loads(record.value or b"{}")
        runs[run["run_id"]].append(run)
    versions: defaultdict[str, list[int]] = defaultdict(list)
    for name, story in runs.items():
        for before, after in itertools.pairwise(story):
            if before != after and (before["status"], after["status"]) not in _MOVES:
                findings.add("forked_runs", f"{name}: {before['status']} then {after['status']}")
        if story[-1]["status"] == "promoted":
            versions[story[-1]["model"]].append(story[-1]["version"])
    stages: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for name, story in runs.items():
        stages[story[0]["trigger_id"], story[0]["stage"]].add(name)
    for (trigger, stage), names in stages.items():
        if len(names) > 1:
            findings.add("forked_runs", f"trigger {trigger} stage {stage} has the runs {sorted(names)}")
    generations: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
    for record in read_topic(connection, MODEL_UPDATES):
        value = record.value or b"{}"
        update = orjson.loads(value)
        known = generations[update["model"]].setdefault(update["generation"], value)
        if known != value:
            findings.add("version_gaps", f"{update['model']} generation {update['generation']}: two updates")
    for what, counted in (("generations", generations), ("promoted versions", versions)):
        for model, numbers in counted.items():
            if sorted(numbers) != list(range(1, len(numbers) + 1)):
                findings.add("version_gaps", f"{model}: {what} {sorted(numbers)}")
    statuses = Counter(story[-1]["status"] for story in runs.values())
    return {"runs": len(runs), **{f"runs_{status}": count for status, count in sorted(statuses.items())}}
