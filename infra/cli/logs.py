"""How the commands log: to stderr, limited by kind (``streams.kafka.log_limit``)."""

from __future__ import annotations

import logging
import sys

from ...streams.kafka.log_limit import LogLimit


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Set up the process's log; the first handler stays if there is one already, as in tests."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        handler.addFilter(LogLimit())
        root.addHandler(handler)
    root.setLevel(level)
    # What becomes of the embedded broker's nodes, each time: pauses between their starts are its limit.
    logging.getLogger("driftloop.infra.broker").setLevel(logging.INFO)
