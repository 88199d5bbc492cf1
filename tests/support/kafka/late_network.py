"""A late network before a broker: it holds a request, cuts the connection, and delivers the request later."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, Self

PRODUCE, FETCH, METADATA, FIND_COORDINATOR = 0, 1, 3, 10
INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28
# A Produce or Fetch names the new leader in its answer when the old one is asked (KIP-951).
_NAMES_BROKERS = frozenset({PRODUCE, FETCH, METADATA, FIND_COORDINATOR})
_LIMIT = 1 << 26


@dataclass(frozen=True, slots=True)
class KafkaRequest:
    """One request frame of Kafka's protocol. ``frame`` has its length in front."""

    key: int
    correlation: int
    frame: bytes

    @property
    def commits(self) -> bool:
        """Whether this is an EndTxn that commits."""
        return self.key == END_TXN and self.frame[-1] == 1  # EndTxn v1 ends with its flag

    @property
    def aborts(self) -> bool:
        """Whether this is an EndTxn that aborts."""
        return self.key == END_TXN and self.frame[-1] == 0

    def of(self, transactional_id: str) -> bool:
        """Whether it names this transactional id."""
        return transactional_id.encode() in self.frame


_Unanswered = dict[int, KafkaRequest]  # by correlation


class Gate(Protocol):
    """What every request passes on its way, and every response on its way back. Both may take their time."""

    async def request(self, request: KafkaRequest) -> bytes:
        """Return the frame to pass on."""
        ...

    async def response(self, request: KafkaRequest, body: bytes) -> None:
        """``body``: of the response, after the correlation id."""
        ...


class _OpenGate:
    async def request(self, request: KafkaRequest) -> bytes:
        return request.frame

    async def response(self, request: KafkaRequest, body: bytes) -> None:
        pass


def of_an_old_generation(frame: bytes) -> bytes:
    """A TxnOffsetCommit (v3) as a member of a generation that is over sends it: brokers refuse it."""
    (client_id,) = struct.unpack_from(">h", frame, 12)
    at = 14 + max(client_id, 0) + 1  # the header ends with its tags, of which there are none
    for _ in ("transactional id", "group"):
        at += frame[at]  # a compact string of fewer than 127 bytes: its length plus one, then the bytes
    at += 8 + 2  # producer id and epoch
    (generation,) = struct.unpack_from(">i", frame, at)
    return frame[:at] + struct.pack(">i", generation - 1) + frame[at + 4 :]


@dataclass(slots=True)
class HeldRequest:
    """A request that will match ``match``, and once it has come, is kept back."""

    network: LateNetwork
    match: Callable[[KafkaRequest], bool]
    cut: bool
    taken: threading.Event = field(default_factory=threading.Event)
    request: KafkaRequest | None = None

    def deliver(self) -> bytes:
        """Send it to the broker; return the body of the answer."""
        return asyncio.run_coroutine_threadsafe(self.deliver_now(), self.network.loop).result(30)

    async def deliver_now(self) -> bytes:
        """The same, within the network's own thread."""
        assert self.request is not None, "no such request came"
        return await self.network.send(self.request)


class LateNetwork:
    """Forwards Kafka's frames between a port of its own (``address``) and a broker, while the block runs.

    Where a response names the broker, the port is replaced, so that clients stay on this network; ``lead``
    does the same for the other nodes of a cluster.
    """

    def __init__(self, broker: str) -> None:
        self.gate: Gate = _OpenGate()
        host, _, port = broker.rpartition(":")
        self.broker = host, int(port)
        self.loop = asyncio.new_event_loop()
        self.address = ""
        self._held: list[HeldRequest] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._renamed: dict[bytes, bytes] = {}  # host and port as responses have them
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self.loop.close()

    def hold(self, match: Callable[[KafkaRequest], bool], *, cut: bool = True) -> HeldRequest:
        """Keep back the next request that matches. ``cut``: and close its connection; else let it wait."""
        held = HeldRequest(self, match, cut)
        with self._lock:
            self._held.append(held)
        return held

    def forget(self, held: HeldRequest) -> None:
        """Let pass what has not come yet."""
        with self._lock:
            if held in self._held:
                self._held.remove(held)

    def lead(self, through: Mapping[str, str]) -> None:
        """Replace these addresses in responses too: each node's own by that of the network before it."""
        self._renamed = self._renamed | {_named(real): _named(ours) for real, ours in through.items()}

    async def send(self, request: KafkaRequest) -> bytes:
        """Send it over a connection of its own, from this network's thread; return the body of the answer."""
        reader, writer = await asyncio.open_connection(*self.broker)
        writer.write(request.frame)
        answer = await _read_frame(reader)
        writer.close()
        return answer[8:]

    def cut(self) -> None:
        """Close every connection there is now; what is on its way in it never arrives."""
        self.loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_LIMIT)
        (host, port), (_, own_port) = self.broker, server.sockets[0].getsockname()
        self.address = f"127.0.0.1:{own_port}"
        self.lead({f"{host}:{port}": f"{host}:{own_port}"})
        self._up.set()
        await self._stop.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    def _take(self, request: KafkaRequest) -> HeldRequest | None:
        with self._lock:
            for held in self._held:
                if held.match(request):
                    self._held.remove(held)
                    held.request = request
                    return held
        return None

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._connections.add(this)
        this.add_done_callback(self._connections.discard)
        with suppress(OSError, asyncio.CancelledError):  # Python 3.11: this task must not end as cancelled
            broker, to_broker = await asyncio.open_connection(*self.broker, limit=_LIMIT)
            unanswered: _Unanswered = {}
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._requests(client, to_broker, unanswered))
                    both.create_task(self._responses(broker, to_client, unanswered))
            except* (asyncio.IncompleteReadError, OSError):
                pass  # one of the two ends has gone, or was cut
            finally:
                to_broker.close()
        to_client.close()

    async def _requests(
        self, client: asyncio.StreamReader, to_broker: asyncio.StreamWriter, unanswered: _Unanswered
    ) -> None:
        while True:
            frame = await _read_frame(client)
            key, correlation = struct.unpack_from(">h2xi", frame, 4)
            request = KafkaRequest(key, correlation, frame)
            if (held := self._take(request)) is not None:
                held.taken.set()
                if held.cut:
                    raise ConnectionResetError
                continue
            passed_on = await self.gate.request(request)
            unanswered[correlation] = request
            to_broker.write(passed_on)
            await to_broker.drain()

    async def _responses(
        self, broker: asyncio.StreamReader, to_client: asyncio.StreamWriter, unanswered: _Unanswered
    ) -> None:
        while True:
            frame = await _read_frame(broker)
            (correlation,) = struct.unpack_from(">i", frame, 4)
            if (request := unanswered.pop(correlation, None)) is not None:
                if request.key in _NAMES_BROKERS:
                    for real, ours in self._renamed.items():
                        frame = frame.replace(real, ours)
                await self.gate.response(request, frame[8:])
            to_client.write(frame)
            await to_client.drain()


def _named(address: str) -> bytes:
    host, _, port = address.rpartition(":")
    return host.encode() + struct.pack(">i", int(port))


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack(">i", head)[0])
