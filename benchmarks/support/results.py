"""Where results go: one JSON per benchmark, and a table on the terminal."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from .process import ROOT

FOLDER = ROOT / ".driftloop" / "bench"


def machine() -> str:
    return f"{_cpu_model()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def write(name: str, result: Mapping[str, Any]) -> Path:
    """``.driftloop/bench/NAME.json``, with the machine and the time beside the result."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{name}.json"
    document = {**result, "machine": machine(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    return file


def read(name: str) -> dict[str, Any] | None:
    """What was written last under the name; None: nothing was."""
    file = FOLDER / f"{name}.json"
    return orjson.loads(file.read_bytes()) if file.is_file() else None


def console() -> Console:
    """As wide as its tables need where nobody looks at a terminal."""
    return Console(highlight=False) if Console().is_terminal else Console(width=130, highlight=False)


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)
    console().print(f"{note + '; ' if note else ''}{machine()}")
