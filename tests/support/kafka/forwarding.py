"""A broker that is reached through a port which opens and closes: an outage that a test can make."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class forwarded:
    """Forwards a local port to the broker while the block runs."""

    def __init__(self, port: int, broker: str) -> None:
        self._broker = broker.rpartition(":")[0], int(broker.rpartition(":")[2])
        self._server = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for one in self._open:
            with contextlib.suppress(OSError):  # its other end has gone
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:  # closed: the block has ended
                return
            there = socket.create_connection(self._broker)
            self._open += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=_pump, args=(source.recv, sink.sendall), daemon=True).start()


def _pump(read: Callable[[int], bytes], write: Callable[[bytes], None]) -> None:
    try:
        while data := read(65_536):
            write(data)
    except OSError:  # one of the two ends has gone
        return
