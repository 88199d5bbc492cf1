"""Make the records of runs: their first stage, follow-ups, evidence, draft manifests and ends."""

from __future__ import annotations

from ...schemas.control import RunControl
from ...schemas.decisions import Trigger
from ...schemas.ids import event_id
from ...schemas.runs import Progress, TrainingRun
from ...schemas.serving import Manifest
from ...schemas.spec.model import ModelSpec
from .child.job import Trained

STAGE_0 = 0


def run_id_of(trigger_id: str, stage: int = STAGE_0) -> str:
    return event_id("run", trigger_id, stage)


def first_stage(trigger: Trigger, spec: ModelSpec, *, champion: int, append_ms: int, ts: int) -> TrainingRun:
    """A run that waits: for a person if the trigger needs approval, and then for labels."""
    needed = spec.window.labels_after_change if champion else spec.triggers.first_labels
    return TrainingRun(
        run_id=run_id_of(trigger.trigger_id),
        trigger_id=trigger.trigger_id,
        model=trigger.model,
        stage=STAGE_0,
        status="waiting",
        reason=trigger.reason,
        ts=ts,
        champion=champion,
        spec_digest=trigger.spec_digest,
        change=trigger.estimated_change,
        approval=trigger.approval,
        trigger_append_ms=append_ms,
        why="needs approval" if trigger.approval == "pending" else "",
        progress=Progress(labels=0, needed=min(needed, spec.window.max_rows), outcome_offsets={}),
    )


def follow_up(run: TrainingRun, spec: ModelSpec, *, champion: int) -> TrainingRun | None:
    """The next stage whose labels ``run`` did not have yet. Without a change there are no stages."""
    if run.change is None or run.progress is None:
        return None
    stages = (spec.window.labels_after_change, *spec.window.follow_ups)
    for stage, needed in enumerate(stages):
        if stage > run.stage and run.progress.labels < needed <= spec.window.max_rows:
            return TrainingRun(
                run_id=run_id_of(run.trigger_id, stage),
                trigger_id=run.trigger_id,
                model=run.model,
                stage=stage,
                status="waiting",
                reason=run.reason,
                ts=run.ts,
                champion=champion,
                spec_digest=run.spec_digest,
                change=run.change,
                approval=run.approval,
                trigger_append_ms=run.trigger_append_ms,
                progress=Progress(labels=0, needed=needed, outcome_offsets={}),
            )
    return None


def with_evidence(run: TrainingRun, trained: Trained, seed: int) -> TrainingRun:
    """The run with everything that training and evaluation found, promoted or not."""
    result = trained.result
    return run.model_copy(
        update={
            "learner": result.learner,
            "parameters": result.parameters,
            "seed": seed,
            "packages": result.packages,
            "lineage": result.lineage,
            "metrics": result.metrics,
            "gates": result.gates,
            "timings_ms": trained.timings_ms,
        }
    )


def draft_manifest(run: TrainingRun, trained: Trained, spec: ModelSpec) -> Manifest | None:
    """A manifest without version and signature, which the registrar adds; None if the result lacks a part."""
    result = trained.result
    if result.format is None or result.reference is None or trained.artifact_sha256 is None:
        return None
    return Manifest(
        model=run.model,
        version=0,
        created_ms=run.ts,
        artifact_sha256=trained.artifact_sha256,
        artifact_bytes=trained.artifact_bytes,
        format=result.format,
        task=spec.task,
        classes=result.classes,
        features=result.features,
        self_test=result.self_test,
        reference=result.reference,
        learner=result.learner,
        spec_digest=spec.digest(),
    )


def registered_run(
    draft: Manifest, spec: ModelSpec, *, command_id: str, champion: int, why: str, ts: int
) -> TrainingRun:
    """The run that records a version made elsewhere; it is about to be promoted."""
    return TrainingRun(
        run_id=run_id_of(command_id),
        trigger_id=command_id,
        model=draft.model,
        stage=STAGE_0,
        status="evaluating",
        reason="manual",
        ts=ts,
        champion=champion,
        spec_digest=spec.digest(),
        why=why,
        learner=draft.learner,
        artifact_sha256=draft.artifact_sha256,
    )


def end_of_run(run: TrainingRun, *, last_stage: bool) -> RunControl:
    """The record that reports the end of a run to the policy."""
    return RunControl(
        model=run.model,
        run_id=run.run_id,
        trigger_id=run.trigger_id,
        stage=run.stage,
        last_stage=last_stage,
        status=run.status,
        ts=run.ts,
    )
