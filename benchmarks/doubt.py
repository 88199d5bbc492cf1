"""What watching each producer's log for doubt costs while there is no fault: with and without it in turns.

    python -m benchmarks.doubt [--pairs 100000] [--rounds 5] [--blocks 40]

CPU times of whole processes, librdkafka's threads included. First small transactions (100 outcomes and the
offsets each, in one process), of which the watch is as large a part as it can be. Then the joiner as a user
runs it, on a backlog. The lower quartile of the first and the least of the second count, since whatever else
runs on the machine only adds. ``share``: of the joiner's CPU, what the lines cost that its producer logs.
Prints a table and writes ``.driftloop/bench/doubt.json``.
"""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager, closing, nullcontext
from typing import NamedTuple
from unittest import mock

import orjson
from confluent_kafka import Consumer, TopicPartition
from driftloop.schemas.topics import OUTCOMES, PREDICTIONS
from driftloop.streams.kafka import transactions
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.doubt import Doubt
from driftloop.streams.kafka.transactions import Consumed, Transactions

from .join import join
from .support.cluster import cluster, fresh
from .support.events import fill
from .support.process import arguments, in_process
from .support.results import show, write

BLOCK = 10  # transactions
RECORDS = 100
LINES = 4  # that a producer logs of a transaction
VALUE = b"x" * 400


def watching(on: bool) -> AbstractContextManager[object]:
    """Watch the producers that are made meanwhile, or do not."""
    return nullcontext() if on else mock.patch.object(transactions, "watched", dict)


class TransactionCost(NamedTuple):
    """Of one transaction, in µs."""

    cpu: float
    wall: float


def small_transactions(connection: Connection, blocks: int) -> dict[bool, TransactionCost]:
    """What a transaction costs with and without the watch, in blocks that take turns."""
    used: dict[bool, list[TransactionCost]] = {True: [], False: []}
    producers: dict[bool, Transactions] = {}
    for on in used:
        with watching(on):
            producers[on] = Transactions(connection, f"bench-{on}", linger_ms=5)
            producers[on].start()
    with closing(Consumer(connection.consumer("bench"))) as consumer:
        consumed = Consumed(
            [TopicPartition(connection.topic(PREDICTIONS), 0, 1)], consumer.consumer_group_metadata()
        )
        records = [(b"key", VALUE)] * RECORDS
        for block in range(2 + 2 * blocks):
            on = block % 4 in (1, 2)  # off on on off, so that a drift of the machine's speed cancels out
            producer = producers[on]
            began, wall = time.process_time(), time.perf_counter()
            for _ in range(BLOCK):
                producer.run(
                    lambda it=producer: it.send_all(connection.topic(OUTCOMES), 0, records), consumed
                )
            if block >= 2:  # connections are up
                took = time.process_time() - began, time.perf_counter() - wall
                used[on].append(TransactionCost(*(seconds / BLOCK * 1e6 for seconds in took)))
    for producer in producers.values():
        producer.close()
    return {
        on: TransactionCost(*(statistics.quantiles(each, n=4)[0] for each in zip(*costs, strict=True)))
        for on, costs in used.items()
    }


def join_counted(connection: Connection, records: int) -> dict[str, float]:
    """Join, and count the ``lines`` that producers log meanwhile."""
    lines, log = 0, Doubt.log

    def counted(self: Doubt, level: int, form: str, *values: object) -> None:
        nonlocal lines
        lines += 1
        log(self, level, form, *values)

    with mock.patch.object(Doubt, "log", counted):
        found = join(connection, records)
    return found | {"lines": lines}


def join_in_turns(bootstrap: str, pairs: int, rounds: int) -> list[dict[str, dict[str, float]]]:
    """What ``join_counted`` found with the watch ``on`` and ``off``, pair by pair."""
    found: list[dict[str, dict[str, float]]] = []
    for number in range(rounds):
        found.append({})
        for role in ("on", "off") if number % 2 else ("off", "on"):
            connection = fresh(bootstrap)
            fill(connection, pairs)
            found[-1][role] = in_process("benchmarks.doubt", role, connection, {"records": 2 * pairs})
    return found


def main() -> None:
    parser = arguments(__doc__, "on", "off")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=40)
    given = parser.parse_args()
    if given.role:
        with watching(given.role == "on"):
            found = join_counted(Connection(given.bootstrap, given.prefix), given.records)
            print(orjson.dumps(found).decode())
        return
    with cluster(given.bootstrap) as bootstrap:
        small = small_transactions(fresh(bootstrap), given.blocks)
        off, on = small[False], small[True]
        joins = join_in_turns(bootstrap, given.pairs, given.rounds)
    ratios = [one["on"]["us"] / one["off"]["us"] for one in joins]
    off_us, on_us = (min(one[role]["us"] for one in joins) for role in ("off", "on"))
    lines = max(one["on"]["lines"] for one in joins)
    share = lines / LINES * max(on.cpu - off.cpu, 0.0) / (2 * given.pairs * off_us)
    write(
        "doubt",
        {
            "transaction_off_us": off._asdict(),
            "transaction_on_us": on._asdict(),
            "lines": lines,
            "share": round(share, 6),
            "join_off_us": round(off_us, 3),
            "join_on_us": round(on_us, 3),
            "join_ratio": round(on_us / off_us, 4),
            "join_ratios": [round(one, 4) for one in ratios],
        },
    )
    show(
        f"{given.blocks} blocks of {BLOCK} transactions; {given.rounds} rounds of {given.pairs} pairs",
        ("µs", "without the watch", "with it", "ratio"),
        [
            ("a transaction of 100, CPU", round(off.cpu), round(on.cpu), round(on.cpu / off.cpu, 3)),
            ("the same, by the clock", round(off.wall), round(on.wall), round(on.wall / off.wall, 3)),
            ("a record joined, CPU", round(off_us, 2), round(on_us, 2), round(on_us / off_us, 4)),
        ],
        f"{lines} lines for {2 * given.pairs} records: {share:.2%} of the joiner's CPU; "
        f"pair by pair: {', '.join(f'{one:.3f}' for one in ratios)}",
    )


if __name__ == "__main__":
    main()
