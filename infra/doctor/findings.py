"""What a check of the doctor reports: something in order, or a fault and its fix.

``machine`` checks this machine, ``cluster`` the cluster. A check returns findings and never raises: what it
cannot look at is one. On failure: nothing was changed; the doctor only reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw. ``fix``: what to do, if anything."""

    check: str
    level: Level
    what: str
    fix: str = ""
