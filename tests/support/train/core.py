"""A trainer's core with its log: what it writes is kept as Kafka would keep it, and can be read back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from driftloop.models.evaluation.result import ExperimentResult
from driftloop.models.registry.signing import Signer
from driftloop.schemas.base import Event
from driftloop.schemas.control import RunControl, UpdateControl
from driftloop.schemas.decisions import Action, Change, ChangePosition, Command, CommandResult, Trigger
from driftloop.schemas.runs import Lineage, TrainingRun
from driftloop.schemas.serving import FeatureSpec, Manifest, ModelUpdate, Reference, SelfTestRow
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.topics import COMMANDS, TRIGGERS, Topic
from driftloop.streams.kafka.record import Record
from driftloop.streams.train.child.job import Trained
from driftloop.streams.train.core import TrainerCore
from driftloop.streams.train.model_runs import ModelRuns
from driftloop.streams.train.step import Step
from driftloop.streams.train.window.window import Clock, FrozenWindow

MODEL = "m"
E = TypeVar("E", bound=Event)
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
CHANGE = Change(partitions={"0": ChangePosition(seq=10, append_ms=5)}, ts=5)
FEATURES = (FeatureSpec(name="x", type="number"),)
SELF_TEST = (SelfTestRow(features={"x": 1.0}, prediction="yes"),)


def spec(**changes: object) -> ModelSpec:
    window = {"labels_after_change": 300, "follow_ups": [600, 900], "max_rows": 5000}
    return ModelSpec.model_validate({"classes": ["no", "yes"], "window": window} | changes)


def sha(number: int) -> str:
    return f"{number:064x}"


def trained(*, passed: bool = True, learned: bool = True, artifact: int = 1, last: int = 50) -> Trained:
    """What an execution found; ``last``: the last seq that was used."""
    if not learned:
        return Trained(result=ExperimentResult(passed=False, why="too few rows"))
    result = ExperimentResult(
        passed=passed,
        why="better" if passed else "refused by significance",
        format="onnx",
        features=FEATURES,
        classes=("no", "yes"),
        lineage=Lineage(
            partitions={"0": (0, last)},
            rows=10,
            train_rows=5,
            validation_rows=1,
            holdout_rows=4,
            old_rows=0,
            digest=sha(7),
        ),
        reference=Reference(rows=10, accuracy=0.9),
        self_test=SELF_TEST,
        learner="hgb",
    )
    return Trained(result=result, artifact_sha256=sha(artifact), artifact_bytes=10)


def draft(artifact: int = 99) -> Manifest:
    """A manifest of a model that was made elsewhere."""
    return Manifest(
        model=MODEL,
        version=0,
        created_ms=1,
        artifact_sha256=sha(artifact),
        artifact_bytes=10,
        format="onnx",
        task="classification",
        classes=("no", "yes"),
        features=FEATURES,
        self_test=SELF_TEST,
        reference=Reference(rows=5, accuracy=0.8),
    )


@dataclass
class TrainerBench:
    """One partition's core. Everything it emits is ``committed`` unless a test aborts."""

    clock: Clock = "append"
    model_spec: ModelSpec = field(default_factory=spec)
    log: list[Event] = field(default_factory=list[Event])
    manifests: dict[int, Manifest] = field(default_factory=dict[int, Manifest])
    now_ms: int = 1_000
    _numbers: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.core = self.rebuilt()

    # --- the log ------------------------------------------------------------------------------------------

    def commit(self, step: Step) -> tuple[Event, ...]:
        """Keeps a step as a reader of the topics would find it."""
        for manifest in step.manifests:
            self.manifests[manifest.version] = manifest
        events = tuple(type(output.event).decode(output.event.encode()) for output in step.outputs)
        self.log.extend(events)
        return events

    def abort(self) -> None:
        """The transaction failed: memory is thrown away."""
        self.core = self.rebuilt()

    def rebuilt(self, *, compacted: bool = False) -> TrainerCore:
        """A core made from the log; ``compacted``: only the newest record of each key is left."""
        core = TrainerCore(0, 1, SIGNER, self.clock)
        core.on_spec(MODEL, self.model_spec)
        runs, updates = self.of(TrainingRun), self.of(ModelUpdate)
        if compacted:
            runs = list({run.run_id: run for run in runs}.values())
            updates = updates[-1:]
        for run in runs:
            core.restore_run(run)
        for update in updates:
            SIGNER.verifier().verify(update)
            core.restore_update(update)
        for result in self.of(CommandResult):
            core.restore_result(result)
        return core

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.log if isinstance(event, kind)]

    # --- reading ----------------------------------------------------------------------------------------

    @property
    def runs(self) -> ModelRuns:
        return self.core.model(MODEL)

    @property
    def champion(self) -> int:
        return self.runs.registrar.serving.champion

    @property
    def generation(self) -> int:
        return self.runs.registrar.serving.generation

    def newest(self) -> dict[str, TrainingRun]:
        return {run.run_id: run for run in self.of(TrainingRun)}

    def statuses(self, run_id: str) -> list[str]:
        return [run.status for run in self.of(TrainingRun) if run.run_id == run_id]

    def run_of(self, trigger: Trigger, stage: int = 0) -> TrainingRun:
        (run,) = [
            run
            for run in self.newest().values()
            if (run.trigger_id, run.stage) == (trigger.trigger_id, stage)
        ]
        return run

    def reported(self) -> list[tuple[str, bool]]:
        """(status, last stage) of the ends of runs that were reported to the policy."""
        return [(word.status, word.last_stage) for word in self.of(RunControl)]

    def live(self) -> list[int]:
        """Versions that were reported to the monitor."""
        return [word.version for word in self.of(UpdateControl)]

    # --- events -------------------------------------------------------------------------------------------

    def record(self, topic: Topic, value: bytes) -> Record:
        self.now_ms += 10
        return Record(topic.name, 0, next(self._numbers), self.now_ms, MODEL.encode(), value)

    def make_trigger(self, reason: str = "drift", **fields: object) -> Trigger:
        trigger = Trigger(
            trigger_id=f"trigger-{next(self._numbers)}",
            model=MODEL,
            version=self.champion,
            reason="drift",
            ts=self.now_ms,
            spec_digest=sha(0),
        )
        return trigger.model_copy(update={"reason": reason, **fields})

    def send(self, trigger: Trigger) -> tuple[Event, ...]:
        return self.commit(self.core.on_trigger(self.record(TRIGGERS, trigger.encode())))

    def trigger(self, reason: str = "drift", **fields: object) -> Trigger:
        trigger = self.make_trigger(reason, **fields)
        self.send(trigger)
        return trigger

    def make_command(self, action: Action, **fields: object) -> Command:
        command = Command(
            command_id=f"command-{next(self._numbers)}", model=MODEL, action=action, ts=0, by="ada"
        )
        return command.model_copy(update=fields)

    def order(self, command: Command, manifest: Manifest | None = None) -> CommandResult:
        """Carries a command out, its manifest fetched as the shell does."""
        record = self.record(COMMANDS, command.encode())
        wanted = self.core.manifest_request(record)
        if wanted is not None and not wanted.draft:
            manifest = next(made for made in self.manifests.values() if sha_of(made) == wanted.sha256)
        events = self.commit(self.core.on_command(record, manifest))
        (result,) = [event for event in events if isinstance(event, CommandResult)]
        return result

    def command(self, action: Action, **fields: object) -> CommandResult:
        return self.order(self.make_command(action, **fields))

    # --- ways of a run ------------------------------------------------------------------------------------

    def freeze(self, run: TrainingRun, labels: int | None = None) -> None:
        """The run's window was found."""
        needed = run.progress.needed if run.progress is not None else 0
        self.now_ms += 10
        found = FrozenWindow(ends={0: 100}, labels=needed if labels is None else labels, now_ms=self.now_ms)
        self.commit(self.runs.ready(run.run_id, found))

    def start(self, executing: tuple[str, ...] = ()) -> TrainingRun:
        run = self.runs.startable(executing)
        assert run is not None
        self.commit(self.runs.start(run.run_id))
        return self.newest()[run.run_id]

    def train(self, run: TrainingRun, labels: int | None = None) -> None:
        """Up to where a child reports."""
        self.freeze(run, labels)
        assert self.start().run_id == run.run_id
        self.commit(self.runs.evaluating(run.run_id))

    def finish(self, run: TrainingRun, found: Trained) -> TrainingRun:
        self.commit(self.runs.finished(run.run_id, found))
        return self.newest()[run.run_id]

    def version(self, **fields: object) -> int:
        """A whole run that ends with a version."""
        trigger = self.trigger("manual", **fields)
        run = self.run_of(trigger)
        self.train(run)
        assert self.finish(run, trained(artifact=next(self._numbers) + 100)).status == "promoted"
        return self.champion


def sha_of(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.encode()).hexdigest()
