"""One run: cluster, roles, load, faults, rest, checks."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from typing import cast

from driftloop.infra.parent_death import die_with_parent
from driftloop.infra.settings import Settings
from driftloop.schemas.topics import JOIN_PROGRESS, LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from tests.soak.checks.books import check_books, check_states
from tests.soak.checks.decisions import check_monitor, check_runs
from tests.soak.checks.findings import Findings
from tests.soak.checks.join import JoinCheck
from tests.soak.checks.offsets import check_offsets
from tests.soak.checks.vitals import check_vitals
from tests.soak.cluster import NODES, Cluster
from tests.soak.faults import FaultInjector
from tests.soak.plan import make_plan
from tests.soak.processes import Ended, Processes
from tests.soak.quiet import Decisions, Inputs, NotQuiet, monitor_is_done, move_clocks, pause, wait_for
from tests.soak.report import recoveries, restores
from tests.soak.stage import JOINERS, MONITORS, Run, Stage, load_command, publish
from tests.soak.traffic.http import Traffic
from tests.soak.watch import Watch
from tests.support.full_disk import MISSING as MISSING_DISK
from tests.support.full_disk import FullDisk
from tests.support.moved_clock import MovedClocks

_READY_S = 90.0
_LOAD_ENDS_S = 300.0
STOP_S = 5.0  # what docs/reliability.md promises
_SERVERS_AGREE_S = 60.0
_CLOCK_SKEW_S = 3.0
_EXCUSED_S = 30.0  # a server that was killed so soon after an answer may have taken its event along

Say = Callable[[str], None]
Figures = dict[str, object]


def soak(run: Run, say: Say) -> tuple[Figures, Findings]:
    """Return the figures and the findings. Everything of the run is in ``run.folder``."""
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    (run.folder / "run.json").write_text(
        json.dumps({**asdict(run), "folder": str(run.folder), "partitions": run.partitions()}), "utf-8"
    )
    begin = time.monotonic()
    findings = Findings()
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(run.folder / "broker", run.seed, network=run.network))
        settings = run.settings(cluster.bootstrap)
        connection = publish(run, settings)
        say(f"{NODES} brokers at {cluster.bootstrap} after {time.monotonic() - begin:.0f} s")
        clocks = MovedClocks(run.folder / "clocks") if run.network else None
        disk = FullDisk(run.state_dir) if run.network else None
        if disk is not None:
            stack.callback(disk.close)
        missing = _missing(clocks, disk)
        for one in missing:
            say(one)
        stage = Stage(run, settings, run.folder / "logs", cluster.roles_bootstrap, clocks)
        processes = stage.processes
        stack.callback(processes.stop)
        stage.start()
        watch = Watch(connection, run.data_partitions)
        decisions = Decisions(connection)
        stack.callback(decisions.close)
        _await_roles(stage, watch)
        say(f"all roles are up after {time.monotonic() - begin:.0f} s")
        watch.start()
        load = _start_load(run, settings, stack)

        def load_lives() -> None:
            if load.poll() not in (None, 0):
                raise RuntimeError("the load has died: " + (run.folder / "logs" / "load.log").read_text())

        injector = FaultInjector(
            connection, cluster, processes, watch, run.folder, check=load_lives, state_dir=run.state_dir,
            partitions=run.partitions(), start_joiner=stage.start_joiner, clocks=clocks, disk=disk,
        )  # fmt: skip
        traffic = Traffic(stage.ports, injector.was_struck, run.folder)
        traffic.start()
        started = time.monotonic()
        injector.run(make_plan(run.seed, run.faults, run.seconds, network=run.network))
        pause(started + run.seconds - time.monotonic(), injector.tick)
        faulted_s = time.monotonic() - started
        say(f"{run.faults} faults done after {faulted_s:.0f} s of load; waiting for rest")
        traffic.end()
        load.terminate()
        wait_for(lambda: load.poll() is not None, _LOAD_ENDS_S, "the load is acknowledged", injector.tick)
        injector.settle()
        caught_up_s = _rest(run, connection, decisions, injector)
        say(f"at rest after {caught_up_s:.0f} s")
        _check_servers(stage, decisions, findings, injector)
        watch.end()
        stop_s = _stop(processes)
        for name, seconds in stop_s.items():
            if seconds > STOP_S:
                findings.add("slow_stops", f"{name} took {seconds:g} s to stop")
        figures = _figures(run, injector, watch, faulted_s, caught_up_s)
        figures |= {"stop_s": stop_s, "late_requests": cluster.late_requests, "not_tried": missing}
        for one in processes.ended:
            if _crashed(one):
                last = one.last_words.splitlines()[-3:]
                findings.add("crashes", f"{one.name} ended with {one.code}: {' | '.join(last)}")
        figures["exits"] = [
            f"{one.name} code {one.code} after {one.seconds:.0f} s" for one in processes.ended
        ]
        figures |= _check(run, connection, findings)
        figures |= _http(run, traffic, injector, findings)
    figures |= {
        "took_s": round(time.monotonic() - begin, 1),
        "harness_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    return figures, findings


def _missing(clocks: MovedClocks | None, disk: FullDisk | None) -> list[str]:
    """What this machine cannot do to the roles."""
    missing = [clocks.missing] if clocks is not None and clocks.missing else []
    return missing + ([] if disk is None or disk.available else [MISSING_DISK])


def _await_roles(stage: Stage, watch: Watch) -> None:
    stage.wait_ready(_READY_S)
    wait_for(
        lambda: all(map(watch.owned_by, JOINERS)), _READY_S, "joiners own partitions", stage.processes.tick
    )


def _start_load(run: Run, settings: Settings, stack: ExitStack) -> subprocess.Popen[bytes]:
    output = stack.enter_context((run.folder / "logs" / "load.log").open("ab"))
    load = subprocess.Popen(
        load_command(run, settings),
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    stack.callback(load.kill)
    return load


def _rest(run: Run, connection: Connection, decisions: Decisions, injector: FaultInjector) -> float:
    """Seconds until joiners and monitors had caught up; then what must expire expires."""

    def caught_up(condition: Callable[[], bool], what: str) -> float:
        return wait_for(condition, run.catch_up_s, what, injector.tick)

    def monitors_caught_up() -> float:
        return caught_up(lambda: monitor_is_done(connection), "the monitors catch up")

    with closing(Inputs(connection, run.data_partitions)) as inputs:
        try:
            took = caught_up(lambda: inputs.behind() == 0, "the joiners catch up") + monitors_caught_up()
            pause(run.early_s + _CLOCK_SKEW_S, injector.tick)  # no early label is kept any longer
            for round_ in range(2):
                moved = move_clocks(connection, run.data_partitions, round_, "alpha")
                caught_up(partial(inputs.passed, moved), "the joiners catch up")
        except NotQuiet as late:
            raise NotQuiet(f"{late}; group and ends: {inputs.standing()}") from late
    monitors_caught_up()
    caught_up(decisions.at_rest, "every trigger has its run, and no run trains")
    monitors_caught_up()
    return took


def _check_servers(stage: Stage, decisions: Decisions, findings: Findings, injector: FaultInjector) -> None:
    until = time.monotonic() + _SERVERS_AGREE_S
    while True:
        decisions.at_rest()
        diverged = decisions.diverged(stage.ports)
        if not diverged:
            return
        if time.monotonic() > until:
            for one in diverged:
                findings.add("servers_diverged", one)
            return
        injector.tick()
        time.sleep(0.2)


def _stop(processes: Processes) -> dict[str, float]:
    """The trainer first, so that the monitors see all of its results; SIGTERM to end, in seconds."""
    took = processes.stop(lambda name: name not in MONITORS)
    return took | processes.stop()


def _crashed(one: Ended) -> bool:
    """A role may end because it was fenced or its cluster was away, and says so. All else is a crash."""
    return one.code != 1 or "\nerror: " not in f"\n{one.last_words}"


def _figures(
    run: Run, injector: FaultInjector, watch: Watch, faulted_s: float, caught_up_s: float
) -> Figures:
    kinds: dict[str, int] = {}
    for fault in injector.done:
        kinds[cast("str", fault["kind"])] = kinds.get(cast("str", fault["kind"]), 0) + 1
    load = cast("Figures", json.loads((run.folder / "load.json").read_text("utf-8")))
    return {
        "seed": run.seed,
        "faults": len(injector.done),
        "faults_by_kind": dict(sorted(kinds.items())),
        "faults_missed": sum("missed" in fault for fault in injector.done),
        "seconds": round(faulted_s, 1),
        "catch_up_s": round(caught_up_s, 1),
        "rate_asked": load["rate_asked"],
        "rate_reached": load["rate_reached"],
        "acknowledged": load["acknowledged"],
        "unacknowledged": load["failed"],
        **recoveries(watch.recoveries),
    }


def _check(run: Run, connection: Connection, findings: Findings) -> Figures:
    begin = time.monotonic()
    joined = JoinCheck(connection, run.folder, run.data_partitions, run.windows, findings).run()
    check_books(connection, joined, findings)
    states = check_states(sorted(run.state_dir.rglob("partition-?????")), findings)
    messages = check_vitals(connection, run.model_partitions, joined, findings)
    figures: Figures = {
        "predictions": joined.predictions,
        "labels": joined.labels,
        "outcomes_expected": joined.outcomes_expected,
        "outcomes_seen": joined.outcomes_seen,
        "dead_letters": joined.dead_letters,
        "misrouted": joined.misrouted,
        "unclear_ids": joined.unclear_ids,
        "states_counted": states,
        "vitals": messages,
    }
    figures["commits"] = check_offsets(connection, "join", (PREDICTIONS, LABELS), findings)
    figures |= check_monitor(connection, run.model_partitions, findings)
    figures |= check_runs(connection, findings)
    figures |= restores(connection, run.partitions()[JOIN_PROGRESS.name])
    (run.folder / "served.json").write_text(json.dumps(sorted(joined.served)), "utf-8")
    return figures | {"check_s": round(time.monotonic() - begin, 1)}


def _http(run: Run, traffic: Traffic, injector: FaultInjector, findings: Findings) -> Figures:
    """Requests, and answered predictions that never came to the log."""
    for failure in traffic.failures:
        findings.add("failed_requests", failure)
    served = set(cast("list[str]", json.loads((run.folder / "served.json").read_text("utf-8"))))
    kills = [
        (cast("int", fault["target"]), cast("float", fault["at"]))
        for fault in injector.done
        if fault["kind"] == "kill-serve"
    ]
    taken_along = 0
    for line in (run.folder / "http.jsonl").read_text("utf-8").splitlines():
        note = json.loads(line)
        if note["status"] != 200 or "id" not in note or note["id"] in served:
            continue
        if any(target == note["server"] and 0 <= at - note["at"] < _EXCUSED_S for target, at in kills):
            taken_along += 1
        else:
            findings.add("http_answers_lost", f"{note['id']} of server {note['server']} at {note['at']}")
    counts = traffic.counts
    return {
        "requests": counts.requests,
        "requests_refused_while_down": counts.refused_while_down,
        "http_answers_taken_along_by_kill": taken_along,
    }
