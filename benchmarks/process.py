"""A measurement in a process of its own, and the CPU time of any process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from driftloop.streams.connection import Connection

ROOT = Path(__file__).parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of all threads of a process so far; 0 once it is gone. Resolution: 10 ms."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int | None = None) -> float:
    """Resident memory of a process (by default this one) now, in MB."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def peak_rss_mb(pid: int | None = None) -> float:
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def in_process(
    module: str, role: str, connection: Connection, extra: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """What ``python -m MODULE --role ROLE --bootstrap … --prefix … [--NAME VALUE]`` prints last, as JSON."""
    arguments = [
        f"--role={role}",
        f"--bootstrap={connection.bootstrap_servers}",
        f"--prefix={connection.prefix}",
    ]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in (extra or {}).items()]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return orjson.loads(done.stdout.splitlines()[-1])
