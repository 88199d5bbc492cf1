"""Vitals against outcomes: every error once, in its place, and the counts of what passed."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from driftloop.schemas.topics import VITALS
from driftloop.streams.kafka.connection import Connection

from tests.soak.aborts import ABORTED
from tests.soak.checks.findings import Findings
from tests.soak.checks.join import EmittedCopy, Joined, Variant
from tests.soak.checks.logs import read

_COUNTED = ("predictions", "failed", "outcomes", "early", "duplicate", "corrected")

Errors = dict[tuple[int, Variant], list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]]


def check_vitals(connection: Connection, partitions: int, joined: Joined, findings: Findings) -> int:
    """Return how many messages there are."""
    messages = 0
    errors: Errors = defaultdict(list)
    counts: Counter[tuple[Variant, str]] = Counter()
    covered: defaultdict[tuple[int, str], set[tuple[int, int]]] = defaultdict(set)
    for number in range(partitions):
        for line in read(connection, VITALS, number):
            if line.value.startswith(ABORTED):
                findings.add("aborted_reads", f"vitals[{number}]@{line.offset}")
                continue
            message = orjson.loads(line.value)
            if "vitals" not in message:
                continue  # a control record
            messages += 1
            for topic in ("predictions", "labels"):
                span = message[topic]
                covered[message["partition"], topic].add((span["start"], span["end"]))
            for entry in message["models"]:
                variant = entry["model"], entry["version"], entry["role"]
                counts.update({(variant, name): count for name, count in entry["counts"].items()})
                if entry.get("errors") is not None:
                    errors[message["partition"], variant].append(_errors(entry))
    for partition, emitted in joined.emitted.items():
        _compare(partition, emitted, errors, findings)
    if joined.unclear_ids == 0:
        for variant, name in sorted(
            {key for key in counts.keys() | joined.counts.keys() if key[1] in _COUNTED}
        ):
            counted, true = counts[variant, name], joined.counts[variant, name]
            if counted != true:
                findings.add("vitals_mismatch", f"{variant}: vitals count {counted} {name}, there are {true}")
    for (partition, topic), spans in covered.items():
        _check_spans(partition, topic, spans, findings)
    return messages


def _errors(entry: dict[str, Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Seqs and values of one entry, as schemas/vitals.py describes them."""
    packed, count = entry["errors"], entry["errors"]["count"]
    raw = base64.b64decode(packed["data"])
    if packed["kind"] == "bits":
        values = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=count).astype(np.float64)
    else:
        values = np.frombuffer(raw, dtype="<f8")[:count]
    gaps = np.ones(count - 1, dtype=np.int64)
    if entry.get("seqs") is not None:
        gaps = np.frombuffer(base64.b64decode(entry["seqs"]), dtype="<u4").astype(np.int64)
    return entry["first_seq"] + np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(gaps)]), values


def _compare(partition: int, emitted: EmittedCopy, errors: Errors, findings: Findings) -> None:
    seqs = np.array(emitted.seqs, dtype=np.int64)
    values = np.array(emitted.errors)
    if not np.array_equal(np.sort(seqs), np.arange(len(seqs))):
        findings.add("wrong", f"partition {partition}: seqs of outcomes are not 0 to {len(seqs) - 1}")
    names = sorted(set(emitted.variants))
    numbers = {variant: number for number, variant in enumerate(names)}
    of_variant = np.array([numbers[variant] for variant in emitted.variants], dtype=np.int64)
    for variant in sorted({*names, *(variant for number, variant in errors if number == partition)}):
        mine = (of_variant == numbers.get(variant, -1)) & ~np.isnan(values)
        wanted = _sorted(seqs[mine], values[mine])
        parts = errors.get((partition, variant), [])
        counted = _sorted(
            np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, dtype=np.int64),
            np.concatenate([part[1] for part in parts]) if parts else np.zeros(0),
        )
        if not (np.array_equal(wanted[0], counted[0]) and np.array_equal(wanted[1], counted[1])):
            odd = sorted(set(wanted[0].tolist()) ^ set(counted[0].tolist()))[:5]
            # One transaction writes outcomes and their vitals: seqs on one side only are torn from it.
            torn = np.setxor1d(wanted[0], counted[0]).size > 0
            findings.add(
                "torn_transactions" if torn else "vitals_mismatch",
                f"partition {partition} {variant}: vitals have {len(counted[0])} errors, "
                f"outcomes {len(wanted[0])}; seqs on one side only: {odd}",
            )


def _sorted(
    seqs: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    order = np.argsort(seqs, kind="stable")
    return seqs[order], values[order]


def _check_spans(partition: int, topic: str, spans: set[tuple[int, int]], findings: Findings) -> None:
    """No offset is covered by two batches."""
    reached = -1
    for start, end in sorted(spans):
        if end > start:
            if start < reached:
                findings.add("vitals_mismatch", f"{topic}[{partition}]: {start} to {end} is covered twice")
            reached = max(reached, end)
