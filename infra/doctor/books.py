"""Whether each prediction and label that the joiner has read is in exactly one class of its books."""

from __future__ import annotations

from collections.abc import Iterator

from ...streams.kafka.connection import Connection
from ..cluster.books import read_books, total_of, unbalanced
from .findings import Finding


def check_books(connection: Connection) -> Iterator[Finding]:
    """Check the books of each input partition, as they were last committed."""
    books = read_books(connection)
    wrong = unbalanced(books)
    for number, one in wrong.items():
        fix = (
            f"keep the joiner's log, stop it, remove partition-{number:05d} of its state and start it again, "
            "which rebuilds the state. If a difference stays: docs/reliability.md, The books"
        )
        yield Finding("books", "fault", f"partition {number}: {one}", fix)
    if not wrong:
        total = total_of(books)
        yield Finding("books", "ok", f"predictions: {total.predictions}; labels: {total.labels}")
