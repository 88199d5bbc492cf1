"""Every Prometheus metric of driftloop, named here and nowhere else.

``python -m driftloop.infra.metrics.catalogue`` prints the catalogue; ``docs/metrics.md`` is that text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Kind = Literal["counter", "gauge", "histogram"]
M = TypeVar("M", Counter, Histogram)

_LATENCY_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric: its name, kind, help text and labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Meter(
    "driftloop_http_requests_total",
    "counter",
    "HTTP requests answered, by path and status; model is empty where a request names none",
    ("path", "model", "status"),
)
REQUEST_SECONDS = Meter(
    "driftloop_http_request_seconds",
    "histogram",
    "time from the first byte of the body to the answer",
    ("path", "model"),
    _LATENCY_S,
)
ANSWERS = Meter(
    "driftloop_answers_total",
    "counter",
    "answers of models; version 0 is the fallback",
    ("model", "version", "role"),
)
LIVE_VERSION = Meter("driftloop_live_version", "gauge", "the version that serves; 0: none", ("model",))
LIVE_GENERATION = Meter(
    "driftloop_live_generation", "gauge", "the generation of the plan that serves", ("model",)
)
CAN_ANSWER = Meter("driftloop_can_answer", "gauge", "1 when requests can be answered", ("model",))
FOLLOWING = Meter("driftloop_following", "gauge", "1 when the updates were read to their end", ("model",))
BEHIND_SECONDS = Meter(
    "driftloop_updates_behind_seconds", "gauge", "how long there have been unread updates", ("model",)
)
SHADOWS_SKIPPED = Meter(
    "driftloop_shadow_answers_skipped_total",
    "counter",
    "requests that shadows did not answer: too many waited, or a shadow failed",
    ("model",),
)
EVENTS_EMITTED = Meter("driftloop_events_emitted_total", "counter", "predictions and labels taken for Kafka")
EVENTS_DROPPED = Meter("driftloop_events_dropped_total", "counter", "events that will not arrive")
EVENTS_WAITING = Meter("driftloop_events_waiting", "gauge", "events on their way to Kafka")
EVENTS_ON_DISK = Meter(
    "driftloop_events_on_disk", "gauge", "events that wait on disk for Kafka; they are among those waiting"
)
EVENTS_DISK_ERRORS = Meter(
    "driftloop_events_disk_errors_total", "counter", "times that events could not be kept on disk"
)

JOIN_RECORDS = Meter("driftloop_join_records_total", "counter", "predictions and labels processed")
JOIN_OUTCOMES = Meter("driftloop_join_outcomes_total", "counter", "outcomes emitted, corrections among them")
JOIN_DEAD_LETTERS = Meter("driftloop_join_dead_letters_total", "counter", "records that could not be used")
JOIN_MISROUTED = Meter(
    "driftloop_join_misrouted_total",
    "counter",
    "records on a partition that is not their id's, sent on to where they belong",
)
JOIN_ABORTS = Meter(
    "driftloop_join_aborts_total", "counter", "transactions that were aborted and tried again"
)
JOIN_PARTITIONS = Meter("driftloop_join_partitions", "gauge", "input partitions owned")
JOIN_LAG = Meter("driftloop_join_lag_offsets", "gauge", "offsets behind the ends of predictions and labels")
JOIN_HELD = Meter(
    "driftloop_join_held_records", "gauge", "records that flow control holds while the other topic catches up"
)
JOIN_PAUSES = Meter(
    "driftloop_join_pauses_total",
    "counter",
    "times that a topic was paused because too many of its records were held",
)
JOIN_RESTORING = Meter(
    "driftloop_join_restoring",
    "gauge",
    "1 while a partition's state is being restored",
    ("partition", "source"),
)
JOIN_RESTORED = Meter(
    "driftloop_join_restored_offsets",
    "gauge",
    "offsets replayed by the last restore",
    ("partition", "source"),
)
JOIN_TO_RESTORE = Meter(
    "driftloop_join_to_restore_offsets", "gauge", "offsets that are left to replay", ("partition", "source")
)
JOIN_RESTORE_RATE = Meter(
    "driftloop_join_restore_records_per_second", "gauge", "rate of the last restore", ("partition", "source")
)
JOIN_RESTORE_FETCHED = Meter(
    "driftloop_join_restore_fetched_bytes",
    "gauge",
    "size of the checkpoint that the last restore began with",
    ("partition", "source"),
)
JOIN_CHECKPOINT_AGE = Meter(
    "driftloop_join_checkpoint_age_seconds", "gauge", "since the newest checkpoint", ("partition",)
)
JOIN_CHECKPOINT_BYTES = Meter(
    "driftloop_join_checkpoint_bytes", "gauge", "size of the newest checkpoint", ("partition",)
)
JOIN_CHECKPOINT_STALL = Meter(
    "driftloop_join_checkpoint_stall_seconds",
    "gauge",
    "how long the loop stood still for the newest checkpoint",
    ("partition",),
)
JOIN_CHECKPOINTS_FAILED = Meter(
    "driftloop_join_checkpoints_failed_total", "counter", "checkpoints that could not be stored"
)
JOIN_DATA_LOSS = Meter(
    "driftloop_join_data_loss_records",
    "gauge",
    "records that retention removed before they were read; the joiner ends, `status` keeps showing it",
    ("topic", "partition"),
)
JOIN_BOOKS = Meter(
    "driftloop_join_books_records",
    "gauge",
    "records read since the books were opened (`read`), and how many of them are in which class",
    ("partition", "topic", "class"),
)
JOIN_BOOKS_DIFFERENCE = Meter(
    "driftloop_join_books_difference",
    "gauge",
    "records in no class; negative: in two. Anything but 0 is a fault: alert on it",
    ("partition", "topic"),
)

CATALOGUE = tuple(value for value in globals().values() if isinstance(value, Meter))
JOIN_METERS = tuple(meter for meter in CATALOGUE if meter.name.startswith("driftloop_join_"))
SERVER_METERS = tuple(meter for meter in CATALOGUE if meter not in JOIN_METERS)


class Reading(NamedTuple):
    """A metric's value at the moment of a scrape."""

    meter: Meter
    value: float
    labels: tuple[str, ...] = ()


class Metrics:
    """The metrics of one process or app: counted as things happen, or read at a scrape."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[Meter, Counter] = {}
        self._histograms: dict[Meter, Histogram] = {}
        self._making = threading.Lock()

    def count(self, meter: Meter, *labels: str, by: float = 1.0) -> None:
        """Count up; ``labels`` in the order of the catalogue."""
        counter = self._counters.get(meter) or self._made(self._counters, meter, Counter)
        (counter.labels(*labels) if labels else counter).inc(by)

    def observe(self, meter: Meter, value: float, *labels: str) -> None:
        """Add a value to a histogram."""
        histogram = self._histograms.get(meter)
        if histogram is None:
            histogram = self._made(self._histograms, meter, Histogram, buckets=meter.buckets)
        (histogram.labels(*labels) if labels else histogram).observe(value)

    def read_with(self, read: Callable[[], Iterable[Reading]]) -> None:
        """Call ``read`` at each scrape."""
        self._registry.register(_Collector(read))

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def serve(self, host: str, port: int) -> int:
        """Answer scrapes for as long as the process runs, and return the port (0: the system chooses one).

        Raises OSError if the port is not available.
        """
        server, _ = start_http_server(port, host, self._registry)
        return server.server_port

    def _made(self, made: dict[Meter, M], meter: Meter, make: Callable[..., M], **more: Any) -> M:
        with self._making:
            if meter not in made:
                made[meter] = make(meter.name, meter.help, meter.labels, registry=self._registry, **more)
            return made[meter]


class _Collector:
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        families: dict[Meter, CounterMetricFamily | GaugeMetricFamily] = {}
        for reading in self._read():
            meter = reading.meter
            if meter not in families:
                made = CounterMetricFamily if meter.kind == "counter" else GaugeMetricFamily
                families[meter] = made(meter.name, meter.help, labels=meter.labels)
            families[meter].add_metric(reading.labels, reading.value)
        return families.values()


def catalogue_as_markdown() -> str:
    """The catalogue as a page."""
    lines = [
        "# Metrics",
        "",
        "What `GET /metrics` shows, in Prometheus' text format: `driftloop_join_…` at the joiner",
        "(`DRIFTLOOP_METRICS_PORT`), the others at the reference server.",
        "This page is printed by `python -m driftloop.infra.metrics.catalogue`.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for meter in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in meter.labels)
        lines.append(f"| `{meter.name}` | {meter.kind} | {labels} | {meter.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(catalogue_as_markdown(), end="")
