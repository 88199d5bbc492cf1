"""What the monitor promises of one error stream, from the plain list of all its errors: slow and obvious.

Nothing is forgotten, merged or carried on: each message recomputes the detectors over everything they were
fed. It holds while a stream is too short (2,000 outcomes) for the monitor to thin its history out.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from driftloop.schemas.serving import Reference
from driftloop.schemas.spec.model import AdwinRules, Detectors, ModelSpec, PageHinkleyRules
from river._river_rust.drift import AdaptiveWindowing  # type: ignore[import-not-found]

BLOCK = 16  # a change is dated to so many outcomes
LONGEST = 2_000  # the history's 128 blocks, less one that is not full
Found = dict[str, Any]


def named(kind: str, *causes: object) -> str:
    """Return the id that these causes must have."""
    text = "".join(f"{cause}\x1f" for cause in causes)
    return f"{kind}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


@dataclass
class Seen:
    """One (model, version, role) of one vitals message, as the test made it."""

    version: int
    role: str
    partition: int
    append_ms: int
    ts: tuple[int, int]
    errors: list[float] = field(default_factory=list[float])
    bits: bool = True
    seqs: list[int] = field(default_factory=list[int])
    predictions: int = 0
    failed: int = 0
    latency: list[float] = field(default_factory=list[float])
    predicted: dict[str, int] = field(default_factory=dict[str, int])
    amounts: list[float] = field(default_factory=list[float])
    nulls: int = 0
    countries: dict[str, int] = field(default_factory=dict[str, int])
    rows: int = 0
    segments: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])


@dataclass
class Alarm:
    state: str = "quiet"
    index: int = 0
    since: int = 0
    level: float = 0.0
    recovery: float = 0.0

    def to(self, state: str, index: int) -> None:
        self.state, self.index = state, index

    def row(self) -> list[Any]:
        return [self.state, self.index, self.since, self.level, self.recovery]


@dataclass
class Fired:
    at: int
    change: int
    since: int
    rise: bool


@dataclass
class Place:
    """Where one outcome is: its partition, and what the log says about it."""

    partition: int
    seq: int
    append_ms: int
    ts: int


class Places:
    """The place of every outcome of a stream."""

    def __init__(self) -> None:
        self.all: list[Place] = []
        self.next: dict[int, tuple[int, int]] = {}
        self.last_ts: dict[int, int] = {}

    def add(self, seen: Seen) -> None:
        if not seen.errors:
            self.next.setdefault(seen.partition, (0, seen.append_ms))
            return
        count, (first, last) = len(seen.errors), seen.ts
        whole = seen.seqs[-1] - seen.seqs[0] == count - 1
        step = count if whole else max(64, math.ceil(count / 16))
        for i in range(count):
            begin = i - i % step
            size = min(step, count - begin)
            low = first + (last - first) * begin // count
            high = first + (last - first) * (begin + size) // count
            ts = low + (high - low) * (i - begin) // size
            self.all.append(Place(seen.partition, seen.seqs[begin] + i - begin, seen.append_ms, ts))
        self.next[seen.partition] = (seen.seqs[-1] + 1, seen.append_ms)
        self.last_ts[seen.partition] = last

    def change(self, index: int) -> Found | None:
        found: dict[str, Any] = {}
        here: list[int] = []
        later: list[int] = []
        for partition, (seq, append_ms) in self.next.items():
            for i in range(index, len(self.all)):
                if self.all[i].partition == partition:
                    seq, append_ms = self.all[i].seq, self.all[i].append_ms
                    (here if i == index else later).append(self.all[i].ts)
                    break
            found[str(partition)] = {"seq": seq, "append_ms": append_ms}
        times = here or later or list(self.last_ts.values())
        return {"partitions": found, "ts": min(times)} if times else None


class ErrorOracle:
    """One (model, version, role)."""

    def __init__(self, spec: ModelSpec) -> None:
        self.bits = True
        self.raw: list[float] = []
        self.values: list[float] = []
        self.scale = 0.0
        self.held = 0  # errors in the rolling window
        self.places = Places()
        self.delta = spec.detectors.adwin.delta
        self.to_adwin: list[tuple[int, float]] = []
        self.to_page_hinkley: list[tuple[int, float, PageHinkleyRules]] = []
        self.page_hinkley_since = 0
        self.alarms = {"adwin": Alarm(), "page-hinkley": Alarm(), "rolling-accuracy": Alarm()}
        self.fall_reported: int | None = None

    @property
    def count(self) -> int:
        return len(self.raw)

    def fits(self, seen: Seen) -> bool:
        return not seen.errors or not self.raw or seen.bits == self.bits

    def add(self, seen: Seen, spec: ModelSpec, reference: Reference | None) -> list[Found]:
        self.places.add(seen)
        if not seen.errors:
            return []
        detectors, start = spec.detectors, self.count
        self.bits = seen.bits
        self.raw += seen.errors
        self.values += self._bounded(seen.errors, reference)
        self.held = min(self.held + len(seen.errors), detectors.accuracy.window)
        fresh = [(i, self.values[i]) for i in range(start, self.count)]
        found = self._follow("adwin", self._adwin(fresh, detectors.adwin), detectors)
        found += self._follow("page-hinkley", self._page_hinkley(fresh, detectors.page_hinkley), detectors)
        return found + self._rolling_rule(spec, reference)

    def _bounded(self, errors: list[float], reference: Reference | None) -> list[float]:
        if self.bits:
            return errors
        if not self.scale:
            known = reference.mean_error if reference else None
            self.scale = known or mean(errors) or 1.0
        return [error / (error + self.scale) for error in errors]

    # --- detectors, over all they were fed ---

    def _adwin(self, fresh: list[tuple[int, float]], rule: AdwinRules) -> list[Fired]:
        """River's own, one error at a time; it starts again when switched off or when delta changes."""
        if not rule.enabled or rule.delta != self.delta:
            self.to_adwin.clear()
        self.delta = rule.delta if rule.enabled else self.delta
        if not rule.enabled:
            return []
        self.to_adwin += fresh
        window = AdaptiveWindowing(self.delta, 32, 5, 5, 10)
        fired: list[Fired] = []
        width = 0
        for k, (index, _) in enumerate(self.to_adwin):
            cut, width = window.update(self.to_adwin[k][1]), width + 1
            if not cut:
                continue
            view = self.to_adwin[k + 1 - width : k + 1]
            width = int(window.get_width())
            dropped, kept = view[:-width], view[-width:]
            rise = bool(dropped) and mean([v for _, v in kept]) > mean([v for _, v in dropped])
            fired.append(Fired(index, kept[0][0], view[0][0], rise))
        self.adwin_width = width
        return [one for one in fired if one.at >= fresh[0][0]]

    def _page_hinkley(self, fresh: list[tuple[int, float]], rule: PageHinkleyRules) -> list[Fired]:
        """The cumulative sum since the last start, computed each time; the change is after its minimum."""
        if not rule.enabled:
            self.to_page_hinkley.clear()
            self.page_hinkley_since = self.count
            return []
        fired: list[Fired] = []
        for index, value in fresh:
            self.to_page_hinkley.append((index, value, rule))
        while True:
            sums = self.page_hinkley_sums()
            for n, total in enumerate(sums, 1):
                index = self.to_page_hinkley[n - 1][0]
                if index < fresh[0][0]:
                    continue
                lowest = min(sums[:n])
                if total - lowest > rule.threshold and n >= rule.min_outcomes:
                    change = self.to_page_hinkley[sums.index(lowest)][0] + 1
                    fired.append(Fired(index, change, self.page_hinkley_since, rise=True))
                    del self.to_page_hinkley[:n]
                    self.page_hinkley_since = index + 1
                    break
            else:
                return fired

    def page_hinkley_sums(self) -> list[float]:
        sums: list[float] = []
        total = of_all = 0.0
        for n, (_, value, rule) in enumerate(self.to_page_hinkley, 1):
            of_all += value
            total = (1 - 0.0001) * total + (value - of_all / n) - rule.delta
            sums.append(total)
        return sums

    # --- what follows of them ---

    def _follow(
        self, name: Literal["adwin", "page-hinkley"], fired: list[Fired], detectors: Detectors
    ) -> list[Found]:
        alarm, window, found = self.alarms[name], detectors.accuracy.window, list[Found]()
        rises, falls = [one for one in fired if one.rise], [one for one in fired if not one.rise]
        if falls and (self.fall_reported is None or self.count - self.fall_reported >= window):
            split = self._split(falls[0].since, -1)
            if split is not None:
                self.fall_reported = self.count
                found.append(self._said(name, "info", split, 0.0, falls[0]))
        if alarm.state in ("alarmed", "acknowledged") and self.count - alarm.index >= window:
            level = mean(self.values[max(0, self.count - window) // BLOCK * BLOCK :])
            if level <= alarm.recovery:
                evidence = {"recovered": True, "n": window, "mean_error": level, "outcomes_seen": self.count}
                found.append(_found(name, "info", level, alarm.recovery, None, evidence))
                alarm.to("quiet", self.count)
                if name == "page-hinkley":
                    self.to_page_hinkley.clear()
                    self.page_hinkley_since = self.count
        newest = rises[0] if rises and alarm.state in ("quiet", "acknowledged") else None
        if newest is not None:
            alarm.since = newest.since
            if name == "page-hinkley":
                reach = max(1_000, 4 * (newest.at - newest.change))
                alarm.since = max(newest.since, newest.change - reach)
            alarm.to("suspected", self.count)
        if alarm.state == "suspected":
            found += self._weigh(name, alarm, newest, detectors)
        return found

    def _weigh(self, name: str, alarm: Alarm, newest: Fired | None, detectors: Detectors) -> list[Found]:
        split = self._split(alarm.since, 1)
        least = detectors.accuracy.drop / (2 if self.bits else 8)
        if split is not None:
            before, after = mean(self.values[split[0] : split[1]]), mean(self.values[split[1] :])
            if after - before >= least and self._standard_errors(split) >= 3.5:
                alarm.level, alarm.recovery = after, (before + after) / 2
                alarm.to("alarmed", self.count)
                return [self._said(name, "alarm", split, least, newest)]
        if self.count - alarm.index >= detectors.accuracy.window:
            alarm.to("quiet", self.count)
        return [self._said(name, "warning", split, least, newest)] if newest and split else []

    def _split(self, since: int, sign: int) -> tuple[int, int] | None:
        """(begin, change): of all splits at whole blocks, the one whose two means differ most."""
        begin, best, found = since // BLOCK * BLOCK, 0.0, None
        for change in range(begin + BLOCK, self.count, BLOCK):
            before, after = self.values[begin:change], self.values[change:]
            move = sign * (sum(after) / len(after) - sum(before) / len(before))
            score = len(before) * len(after) * move * move
            if move > 0 and score > best * (1 + 1e-12):
                best, found = score, (begin, change)
        return found

    def _standard_errors(self, split: tuple[int, int]) -> float:
        begin, change = split
        before, after = self.values[begin:change], self.values[change:]
        a, b = mean(before), mean(after)
        variance = (len(before) * a * (1 - a) + len(after) * b * (1 - b)) / (len(before) + len(after))
        batch = min(len(after), change // 8)
        groups: dict[int, list[float]] = {}
        if batch >= BLOCK:
            for end in range(change, 0, -BLOCK):
                groups.setdefault((change - end) // batch, []).extend(self.values[end - BLOCK : end])
        whole = [group for k, group in groups.items() if k < 20 and len(group) >= batch / 2]
        if len(whole) >= 2:
            centre = mean([value for group in whole for value in group])
            squares = [(sum(group) - len(group) * centre) ** 2 / len(group) for group in whole]
            batched = math.fsum(squares) / (len(whole) - 1)
            variance = max(variance, batched) if self.bits else batched
        if variance <= 0:
            return math.inf
        return abs(b - a) / math.sqrt(variance * (1 / len(before) + 1 / len(after)))

    def _said(
        self, name: str, severity: str, split: tuple[int, int], threshold: float, fired: Fired | None
    ) -> Found:
        begin, change = split
        before, after = self.values[begin:change], self.values[change:]
        evidence: dict[str, Any] = {
            "before": {"n": len(before), "mean_error": mean(before)},
            "after": {"n": len(after), "mean_error": mean(after)},
            "change_index": change,
            "outcomes_seen": self.count,
        }
        deviations = self._standard_errors(split)
        if math.isfinite(deviations):
            evidence |= {"standard_errors": deviations, "standard_errors_needed": 3.5}
        if fired is not None:
            evidence |= {"fired_at_index": fired.at, "detector_change_index": fired.change}
        if not self.bits:
            evidence["scaled_by"] = self.scale
        where = self.places.change(change)
        return _found(name, severity, mean(after) - mean(before), threshold, where, evidence)

    def rolling(self) -> list[float]:
        return self.raw[-self.held :] if self.held else []

    def _rolling_rule(self, spec: ModelSpec, reference: Reference | None) -> list[Found]:
        rule, alarm = spec.detectors.accuracy, self.alarms["rolling-accuracy"]
        normal = _normal(reference, bits=self.bits)
        if not rule.enabled or reference is None or normal is None or self.held < rule.window:
            return []
        now, rows = mean(self.rolling()), max(1, round(reference.rows * spec.window.holdout))
        spread = math.sqrt(mean([(error - now) ** 2 for error in self.rolling()]))
        noise = (math.sqrt(normal * (1 - normal)) if self.bits else spread) * math.sqrt(
            1 / self.held + 1 / rows
        )
        drop = rule.drop * (1 if self.bits else normal)
        limit = (alarm.level if alarm.state == "acknowledged" else normal) + drop
        evidence: dict[str, Any] = {
            "window": self.held, "mean_error": now, "reference_error": normal, "reference_rows": rows,
            "outcomes_seen": self.count,
        }  # fmt: skip
        if alarm.state != "alarmed" and now > limit and now > normal + 2 * noise:
            alarm.level, alarm.recovery = now, normal + drop / 2
            alarm.to("alarmed", self.count)
            split = self._split(max(0, self.count - 4 * rule.window), 1)
            evidence["change_index"] = split[1] if split else self.count - self.held
            where = self.places.change(evidence["change_index"])
        elif alarm.state in ("alarmed", "acknowledged") and now <= alarm.recovery:
            alarm.to("quiet", self.count)
            evidence["recovered"], where, drop = True, None, drop / 2
        else:
            return []
        value, threshold = (1 - now, 1 - normal - drop) if self.bits else (now, normal + drop)
        severity = "info" if "recovered" in evidence else "alarm"
        said = _found("rolling-accuracy", severity, value, threshold, where, evidence)
        return [said | {"kind": "accuracy"}]

    def acknowledge(self) -> None:
        for alarm in self.alarms.values():
            if alarm.state == "alarmed":
                alarm.level = mean(self.rolling())
                alarm.to("acknowledged", self.count)

    def alarmed(self) -> list[str]:
        return [f"{name}/error" for name, alarm in self.alarms.items() if alarm.state == "alarmed"]


def _normal(reference: Reference | None, *, bits: bool) -> float | None:
    if reference is None or not bits:
        return None if reference is None else reference.mean_error
    return None if reference.accuracy is None else 1 - reference.accuracy


def _found(
    name: str, severity: str, value: float, threshold: float, where: Found | None, evidence: Found
) -> Found:
    said: Found = {
        "kind": "concept", "detector": name, "subject": "error", "severity": severity, "value": value,
        "threshold": threshold, "evidence": evidence,
    }  # fmt: skip
    return said | ({} if where is None else {"estimated_change": where})
