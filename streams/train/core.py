"""The trainer's and the registrar's core for one partition of models: records in, what to write out.

No Kafka, no clock, no I/O. Every method that takes an event returns a Step; its outputs belong in one
transaction with the offset of the record that caused them. After a failed transaction the core is dropped
and rebuilt from training-runs, model-updates, command-results and specs.

On failure: an invalid record becomes a dead letter or a refused command; exceptions are defects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...models.registry.signing import Signer
from ...schemas.control import ApprovalControl, RequestControl
from ...schemas.decisions import Change, Command, CommandResult, Trigger
from ...schemas.errors import DecodeError
from ...schemas.partition import partition_of
from ...schemas.runs import TrainingRun
from ...schemas.serving import Manifest, ModelUpdate
from ...schemas.spec.model import ModelSpec
from ...schemas.topics import COMMAND_RESULTS
from ..kafka.record import Record
from .model_runs import ModelRuns
from .registrar import SERVING_ACTIONS, IllegalCommand
from .step import NOTHING, Step, control, dead_letter_of, keyed_by_model
from .window.window import Clock

_LIMIT = 2**53  # of numbers that survive JSON


@dataclass(frozen=True, slots=True)
class ManifestRequest:
    """A command's manifest, to be fetched. ``draft``: it is unsigned, and its artifact must be tested."""

    model: str
    sha256: str
    draft: bool


class TrainerCore:
    """All models of one partition of triggers and commands."""

    def __init__(self, partition: int, partitions: int, signer: Signer, clock: Clock) -> None:
        self.partition = partition
        self._partitions = partitions
        self._signer = signer
        self._clock: Clock = clock
        self._models: dict[str, ModelRuns] = {}
        self._known: set[str] = set()
        self._commands: set[str] = set()

    # --- from the log -----------------------------------------------------------------------------------

    def restore_run(self, run: TrainingRun) -> None:
        self.model(run.model).restore(run)

    def restore_update(self, update: ModelUpdate) -> None:
        """Apply an update whose signature the caller has verified."""
        self._known.add(update.model)
        self.model(update.model).registrar.restore(update)

    def restore_result(self, result: CommandResult) -> None:
        self._commands.add(result.command_id)

    def on_spec(self, model: str, spec: ModelSpec) -> None:
        """Take a model's newest spec; runs that start from now on use it."""
        self._known.add(model)
        self.model(model).spec = spec

    # --- what the shell asks ----------------------------------------------------------------------------

    def models(self) -> Iterator[ModelRuns]:
        """The models with open runs."""
        return (model for model in self._models.values() if model.busy)

    def owns(self, model: str) -> bool:
        return partition_of(model, self._partitions) == self.partition

    # --- triggers ---------------------------------------------------------------------------------------

    def on_trigger(self, record: Record) -> Step:
        try:
            trigger = Trigger.decode(record.value or b"")
            self._check_place(trigger.model)
            _check_change(trigger.estimated_change)
        except DecodeError as error:
            return Step((dead_letter_of(record, "train", error.reason),))
        return self.model(trigger.model).accept(trigger, record.append_ms)

    # --- commands ---------------------------------------------------------------------------------------

    def manifest_request(self, record: Record) -> ManifestRequest | None:
        """The manifest that ``on_command`` will need for this record, if any."""
        try:
            command = self._decode_command(record)
            if command.command_id in self._commands:
                return None
            if command.action == "register" and command.manifest_sha256 is not None:
                self._check_known(command)
                self.model(command.model).registrar.check_generation(command)
                return ManifestRequest(command.model, command.manifest_sha256, draft=True)
            if command.action in SERVING_ACTIONS:
                self._check_known(command)
                registrar = self.model(command.model).registrar
                sha256 = registrar.manifest_needed(registrar.intended(command))
                return None if sha256 is None else ManifestRequest(command.model, sha256, draft=False)
        except (DecodeError, IllegalCommand):
            return None  # on_command reports why
        return None

    def on_command(self, record: Record, manifest: Manifest | None = None, problem: str = "") -> Step:
        """``manifest``: the requested one, checked; ``problem``: why there is none. Repeats do nothing."""
        try:
            command = self._decode_command(record)
        except DecodeError as error:
            return Step((dead_letter_of(record, "registrar", error.reason),))
        if command.command_id in self._commands:
            return NOTHING
        self._commands.add(command.command_id)
        ts = self.model(command.model).now_ms(record.append_ms)
        try:
            self._check_known(command)
            if problem:
                raise IllegalCommand(problem)
            step = self._carry_out(command, manifest, ts)
        except IllegalCommand as error:
            return self._result(command, "refused", str(error), record.append_ms)
        return step + self._result(command, "done", "", record.append_ms)

    def _carry_out(self, command: Command, manifest: Manifest | None, ts: int) -> Step:
        """Raise IllegalCommand before anything has changed."""
        model = self.model(command.model)
        if command.action == "trigger":
            request = RequestControl(
                model=command.model, command_id=command.command_id, by=command.by, why=command.why, ts=ts
            )
            return Step((control(command.model, request),))
        if command.action in ("approve", "deny"):
            return self._relay_approval(command, ts)
        if command.action == "register":
            model.registrar.check_generation(command)
            if manifest is None:
                raise IllegalCommand("register needs the digest of a stored manifest")
            why = f"registered by {command.by}: {command.why}".removesuffix(": ")
            return model.register(manifest, command_id=command.command_id, why=why, ts=ts)
        before = model.registrar.serving.champion
        intended = model.registrar.intended(command)
        reference = manifest.reference if manifest is not None else None
        step = Step(model.registrar.carry_out(command, intended, reference, ts))
        return step + model.champion_changed() if intended.champion != before else step

    def _relay_approval(self, command: Command, ts: int) -> Step:
        if command.trigger_id is None or not self.model(command.model).awaits_approval(command.trigger_id):
            raise IllegalCommand(f"no trigger {command.trigger_id} of {command.model} awaits approval")
        approval = ApprovalControl(
            model=command.model,
            command_id=command.command_id,
            trigger_id=command.trigger_id,
            approved=command.action == "approve",
            by=command.by,
            why=command.why,
            ts=ts,
        )
        return Step((control(command.model, approval),))

    def _result(self, command: Command, status: str, reason: str, append_ms: int) -> Step:
        result = CommandResult.model_validate(
            {
                "command_id": command.command_id,
                "model": command.model,
                "action": command.action,
                "status": status,
                "reason": reason,
                "generation": self.model(command.model).registrar.serving.generation,
                "ts": append_ms,
            }
        )
        return Step((keyed_by_model(COMMAND_RESULTS, command.model, result),))

    # --- parts ------------------------------------------------------------------------------------------

    def _decode_command(self, record: Record) -> Command:
        command = Command.decode(record.value or b"")
        self._check_place(command.model)
        return command

    def _check_place(self, model: str) -> None:
        """Refuse a record on another partition than its model's: only that partition's trainer may act."""
        if not self.owns(model):
            place = partition_of(model, self._partitions)
            raise DecodeError(
                f"model {model} belongs on partition {place}, and this came on {self.partition}: "
                "use the model as the key, and murmur2 as the partitioner"
            )

    def _check_known(self, command: Command) -> None:
        if command.model not in self._known:
            raise IllegalCommand(
                f"there is no model {command.model}: publish its spec with `driftloop apply`"
            )

    def model(self, model: str) -> ModelRuns:
        """The model's runs, created on first use."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = ModelRuns(model, self._signer, self._clock)
        return found


def _check_change(change: Change | None) -> None:
    """Raise DecodeError for a change whose positions cannot be positions in a log."""
    if change is None:
        return
    for partition, position in change.partitions.items():
        if not (partition.isascii() and partition.isdigit() and len(partition) < 10):
            raise DecodeError(f"Trigger: estimated_change: {partition[:80]!r} is no partition's number")
        if not (0 <= position.seq < _LIMIT and 0 <= position.append_ms < _LIMIT):
            raise DecodeError(f"Trigger: estimated_change: partition {partition}: seq and append_ms from 0")
