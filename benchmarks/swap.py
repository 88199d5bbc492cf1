"""Whether a hot swap is felt: two servers under steady load, with swaps and without, in turns in one run.

    python -m benchmarks.swap [--rate 200] [--seconds 10] [--rounds 3]

Real ``driftloop serve`` processes, HTTP over kept connections, an open loop: a request is sent when it is
due, not when the one before was answered, and its latency counts from when it was due. With swaps, a new
version is published every half second. ``p99_ratio`` compares the medians of the rounds' p99.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from driftloop.streams.kafka.connection import Connection

from tests.support.serve.bench import ServingBench

from .support.cluster import cluster, fresh
from .support.process import arguments, driftloop
from .support.results import show, write

SERVERS = 2
SWAP_EVERY_S = 0.5


@dataclass
class RequestLoad:
    """What the requests of one round came to; versions as the answers state them."""

    latencies_ms: list[float] = field(default_factory=list[float])
    failed: int = 0
    versions: set[int] = field(default_factory=set[int])


async def _ask(client: httpx.AsyncClient, url: str, due: float, load: RequestLoad) -> None:
    try:
        answer = await client.post(f"{url}/predict", json={"features": {"x": 1.0}})
    except httpx.HTTPError:
        load.failed += 1
        return
    load.latencies_ms.append((time.perf_counter() - due) * 1000)
    if answer.status_code == 200:
        load.versions.add(answer.json()["version"])
    else:
        load.failed += 1


async def requests(urls: list[str], rate: int, seconds: float) -> RequestLoad:
    load = RequestLoad()
    async with httpx.AsyncClient(timeout=30) as client, asyncio.TaskGroup() as tasks:
        began = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(_ask(client, urls[number % len(urls)], due, load))
    return load


async def swaps(bench: ServingBench, first: int, seconds: float) -> int:
    """Publishes a version every half second; gives the last generation."""
    generation, until = first, time.perf_counter() + seconds
    while time.perf_counter() < until:
        update = await asyncio.to_thread(bench.update, generation, generation)
        await asyncio.to_thread(bench.publish, update)
        generation += 1
        await asyncio.sleep(SWAP_EVERY_S)
    return generation


async def measure(
    connection: Connection, folder: Path, rate: int, seconds: float, rounds: int
) -> dict[str, object]:
    bench = ServingBench(connection, folder, "late")
    bench.apply_spec(features={"x": "number"})
    bench.publish(bench.update(1, 1))
    with ExitStack() as stack:
        urls: list[str] = []
        for number in range(SERVERS):
            port = _free_port()
            home = folder / f"server-{number}"
            home.mkdir()
            arguments = ("late", "--port", str(port))
            own = {
                "instance_id": f"serve-{number}",
                "keys_dir": str(bench.keys_dir),
                "artifact_store": str(bench.store_dir),
            }
            stack.enter_context(driftloop("serve", connection, home, *arguments, **own))
            urls.append(f"http://127.0.0.1:{port}")
        await _ready(urls)
        await requests(urls, rate, 2)
        still: list[RequestLoad] = []
        swapped: list[RequestLoad] = []
        generation = 2
        for _ in range(rounds):
            still.append(await requests(urls, rate, seconds))
            load, generation = await asyncio.gather(
                requests(urls, rate, seconds), swaps(bench, generation, seconds)
            )
            swapped.append(load)
    p99 = {
        name: [float(np.percentile(load.latencies_ms, 99)) for load in loads]
        for name, loads in (("still", still), ("swapped", swapped))
    }
    without, with_swaps = statistics.median(p99["still"]), statistics.median(p99["swapped"])
    return {
        "servers": SERVERS,
        "rate": rate,
        "requests": sum(len(load.latencies_ms) for load in still + swapped),
        "failed": sum(load.failed for load in still + swapped),
        "swaps": generation - 2,
        "versions_seen": len(set().union(*(load.versions for load in swapped))),
        "p50_ms": round(statistics.median(statistics.median(load.latencies_ms) for load in still), 2),
        "p99_ms": round(without, 2),
        "p99_with_swaps_ms": round(with_swaps, 2),
        "p99_ratio": round(with_swaps / without, 2),
        "p99s_ms": p99,
    }


async def _ready(urls: list[str]) -> None:
    deadline = time.monotonic() + 60
    async with httpx.AsyncClient() as client:
        for url in urls:
            while True:
                try:
                    if (await client.get(f"{url}/health/ready")).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass  # it is starting
                if time.monotonic() > deadline:
                    raise SystemExit(f"{url} did not become ready")
                await asyncio.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with cluster(given.bootstrap) as bootstrap, tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(fresh(bootstrap), Path(folder), given.rate, given.seconds, given.rounds))
    write("swap", result)
    versions = result["versions_seen"]
    show(
        f"{result['requests']} requests at {given.rate}/s to {SERVERS} servers, {result['swaps']} swaps",
        ("", "without swaps", "with swaps"),
        [
            ("p99, ms", result["p99_ms"], result["p99_with_swaps_ms"]),
        ],
        f"{result['failed']} failed; {versions} versions answered; ratio {result['p99_ratio']}",
    )


if __name__ == "__main__":
    main()
