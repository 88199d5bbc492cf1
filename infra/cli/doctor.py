"""``driftloop doctor``: what is wrong with this deployment, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import orjson
import typer

from ..doctor.cluster import check_cluster
from ..doctor.findings import Finding
from ..doctor.machine import check_machine
from ..settings import Settings
from .console import output

_SHOWN = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "fault": "[red]FAULT[/]  "}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON.")] = False) -> None:
    """Check cluster, topics, clocks, keys, packages, disks, groups, specs; exit code 1 at a fault."""
    settings = Settings()
    found: list[Finding] = []
    for finding in (*check_machine(settings), *check_cluster(settings)):
        found.append(finding)
        _print(finding, as_json)
    faults = sum(finding.level == "fault" for finding in found)
    if not as_json:
        output.print(f"{faults} faults in {len(found)} findings" if faults else "no faults", highlight=False)
    if faults:
        raise typer.Exit(1)


def _print(finding: Finding, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(asdict(finding)).decode())
        return
    output.print(_SHOWN[finding.level], end=" ")
    output.print(f"{finding.check}: {finding.what}", markup=False, highlight=False, soft_wrap=True)
    if finding.fix:
        output.print(f"        → {finding.fix}", markup=False, highlight=False, soft_wrap=True)
