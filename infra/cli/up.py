"""``driftloop up``: everything of a driftloop.toml in one terminal."""

from __future__ import annotations

import threading

from ...schemas.errors import SpecError
from ...schemas.spec.file import load_deployment
from ..deployment import Prepared, loop_roles, prepared_cluster, server_role
from ..settings import Settings
from ..supervisor import Supervisor
from .console import output
from .kafka import awaited
from .roles import stop_on_signals

_COLOURS = {"join": "cyan", "monitor": "magenta", "train": "yellow", "serve": "green"}


def up() -> None:
    """Run the whole loop of driftloop.toml here; Ctrl-C stops all of it cleanly."""
    settings = Settings()
    deployment = load_deployment(settings.config)
    if not deployment.models:
        raise SpecError(str(settings.config), ("it has no [models.NAME] table: nothing to keep right",))
    stop = stop_on_signals()
    if settings.bootstrap_servers is not None:
        awaited(settings, "up", stop)
        if stop.is_set():
            return
    with prepared_cluster(settings, deployment) as prepared:
        roles = (*loop_roles(prepared.settings), server_role(prepared.settings, tuple(deployment.models)))
        supervisor = Supervisor(roles, _say)
        supervisor.start()
        _welcome(prepared, tuple(deployment.models))
        supervisor.run(stop, check=prepared.tend_broker)
    output.print("stopped")


_printing = threading.Lock()


def _say(role: str, line: str) -> None:
    with _printing:
        output.print(f"[{_COLOURS.get(role, 'white')}]{role:>8}[/] │ ", end="")
        output.print(line, markup=False, highlight=False, soft_wrap=True)


def _welcome(prepared: Prepared, models: tuple[str, ...]) -> None:
    settings = prepared.settings
    kind = "cluster" if prepared.broker is None else "embedded broker"
    output.print(f"Kafka      {settings.bootstrap_servers} ({kind})")
    output.print(f"server     http://{settings.http_host}:{settings.http_port}  (POST /predict, /feedback)")
    output.print(f"models     {', '.join(models)}")
    if prepared.broker is not None:
        output.print("watch      driftloop status --watch   (in this folder, from another terminal)")
    output.print("Ctrl-C stops everything\n")
