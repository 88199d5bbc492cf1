"""The registrar of one model: its serving state, which nothing else changes.

It allocates versions and generations, signs manifests and updates, and refuses, with a reason, commands that
are not allowed or that were made from an outdated view. Its state is rebuilt from the newest model update and
the runs that made a version; a version number is never used twice, whatever compaction kept.

On failure: an exception leaves the state as it was; the shell then rebuilds it from the log anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...models.registry.signing import Signer
from ...schemas.control import UpdateControl
from ...schemas.decisions import Action, Command
from ...schemas.errors import Error
from ...schemas.runs import TrainingRun
from ...schemas.serving import Manifest, ModelUpdate, Plan, Reference, VersionRef
from ...schemas.topics import MODEL_UPDATES
from .step import Output, control, keyed_by_model


class IllegalCommand(Error):
    """A command that cannot be carried out; the message is for the person who sent it."""


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version that exists. ``used_seqs``: per outcomes partition, the last seq that it was trained or
    evaluated on; ``used_ends``: the first offset past its window. Empty if it was trained elsewhere."""

    version: int
    manifest_sha256: str
    parent: int
    used_seqs: Mapping[int, int] = field(default_factory=dict[int, int])
    used_ends: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, slots=True)
class DesiredServing:
    """What is, or will be, served."""

    generation: int = 0
    plan: Plan = Plan()  # noqa: RUF009  # frozen
    last_version: int = 0
    blocked: tuple[int, ...] = ()
    pinned: bool = False

    @property
    def champion(self) -> int:
        """Its version; 0 without one."""
        return self.plan.champion.version if self.plan.champion is not None else 0


@dataclass(frozen=True, slots=True)
class Promotion:
    """A version that was allocated: its signed manifest, to be stored first, and the records to write."""

    manifest: Manifest
    manifest_sha256: str
    outputs: tuple[Output, ...]


class Registrar:
    """The serving state of one model and its moves."""

    def __init__(self, model: str, signer: Signer) -> None:
        self.model = model
        self.serving = DesiredServing()
        self._signer = signer
        self._versions: dict[int, KnownVersion] = {}

    # --- from the log -----------------------------------------------------------------------------------

    def restore(self, update: ModelUpdate) -> None:
        """Apply an update whose signature was verified. Updates older than the newest are skipped."""
        if update.generation > self.serving.generation:
            self.serving = DesiredServing(
                update.generation,
                update.plan,
                max(update.last_version, self.serving.last_version),
                update.blocked,
                update.pinned,
            )

    def know(self, run: TrainingRun) -> None:
        """Note a run that ended; one with a version makes that version known."""
        if run.version is None or run.manifest_sha256 is None:
            return
        spans = run.lineage.partitions if run.lineage is not None else {}
        ends = run.progress.outcome_offsets if run.lineage is not None and run.progress is not None else {}
        self._versions[run.version] = KnownVersion(
            run.version,
            run.manifest_sha256,
            run.champion,
            {int(partition): last for partition, (_, last) in spans.items()},
            {int(partition): end for partition, end in ends.items()},
        )
        if run.version > self.serving.last_version:
            self.serving = replace(self.serving, last_version=run.version)

    # --- what is known ------------------------------------------------------------------------------------

    @property
    def champion(self) -> KnownVersion | None:
        ref = self.serving.plan.champion
        if ref is None:
            return None
        return self._versions.get(ref.version) or KnownVersion(ref.version, ref.manifest_sha256, 0)

    def version(self, number: int) -> KnownVersion | None:
        return self._versions.get(number)

    # --- a new version ------------------------------------------------------------------------------------

    def promote(self, draft: Manifest, *, run_id: str, cause: str, why: str, ts: int) -> Promotion:
        """Give ``draft`` the next version, sign it and make it the champion."""
        version = self.serving.last_version + 1
        parent = self.serving.champion or None
        made = {"version": version, "refresh": 0, "parent": parent, "run_id": run_id, "created_ms": ts}
        manifest = self._signer.sign(draft.model_copy(update=made))
        sha256 = hashlib.sha256(manifest.encode()).hexdigest()
        ref = VersionRef(version=version, manifest_sha256=sha256)
        serving = replace(self.serving, plan=Plan(champion=ref), last_version=version)
        outputs = self._publish(serving, manifest.reference, cause=cause, why=why, ts=ts)
        return Promotion(manifest, sha256, outputs)

    # --- people -------------------------------------------------------------------------------------------

    def check_generation(self, command: Command) -> None:
        """Raise IllegalCommand if the person looked at another generation than the present one."""
        if command.generation is not None and command.generation != self.serving.generation:
            raise IllegalCommand(
                f"generation is {self.serving.generation} by now, and {command.generation} was looked at: "
                "look again"
            )

    def intended(self, command: Command) -> DesiredServing:
        """The serving state after the command. Changes nothing yet; raises IllegalCommand."""
        self.check_generation(command)
        now = self.serving
        if command.action == "promote":
            return self._serve(_named(command))
        if command.action == "rollback":
            return self._serve(self._parent(now.champion) if command.version is None else command.version)
        if command.action == "pin":
            return self._pin(command.version)
        if command.action == "unpin":
            if not now.pinned:
                raise IllegalCommand("nothing is pinned")
            return replace(now, pinned=False)
        if command.action == "block":
            return self._block(_named(command))
        if command.action == "retire":
            if now.champion == 0:
                raise IllegalCommand("no version is served: there is nothing to retire")
            return replace(now, plan=Plan(), pinned=False)
        raise IllegalCommand(f"{command.action} is not a move of the serving state")

    def manifest_needed(self, intended: DesiredServing) -> str | None:
        """The digest of the manifest whose reference the monitor needs; None: the reference stays."""
        ref = intended.plan.champion
        return None if ref is None or ref == self.serving.plan.champion else ref.manifest_sha256

    def carry_out(
        self, command: Command, intended: DesiredServing, reference: Reference | None, ts: int
    ) -> tuple[Output, ...]:
        """``reference``: of the manifest that ``manifest_needed`` named."""
        why = f"{command.action} by {command.by}: {command.why}".removesuffix(": ")
        return self._publish(intended, reference, cause=command.command_id, why=why, ts=ts)

    def _publish(
        self, serving: DesiredServing, reference: Reference | None, *, cause: str, why: str, ts: int
    ) -> tuple[Output, ...]:
        self.serving = replace(serving, generation=self.serving.generation + 1)
        update = ModelUpdate(
            model=self.model,
            generation=self.serving.generation,
            ts=ts,
            plan=serving.plan,
            last_version=serving.last_version,
            blocked=serving.blocked,
            pinned=serving.pinned,
            cause=cause,
            why=why,
        )
        report = UpdateControl(
            model=self.model,
            generation=self.serving.generation,
            version=serving.champion,
            reference=reference,
            ts=ts,
        )
        return (
            keyed_by_model(MODEL_UPDATES, self.model, self._signer.sign(update)),
            control(self.model, report),
        )

    def _serve(self, version: int) -> DesiredServing:
        now = self.serving
        known = self._versions.get(version)
        if known is None:
            raise IllegalCommand(f"there is no version {version}; known: {_listed(self._versions)}")
        if version in now.blocked:
            raise IllegalCommand(f"version {version} is blocked")
        if version == now.champion:
            raise IllegalCommand(f"version {version} is the champion already")
        ref = VersionRef(version=version, manifest_sha256=known.manifest_sha256)
        return replace(now, plan=Plan(champion=ref))

    def _pin(self, version: int | None) -> DesiredServing:
        now = self.serving
        if version is not None and version != now.champion:
            return replace(self._serve(version), pinned=True)
        if now.champion == 0:
            raise IllegalCommand("no version is served: there is nothing to pin")
        if now.pinned:
            raise IllegalCommand(f"version {now.champion} is pinned already")
        return replace(now, pinned=True)

    def _block(self, version: int) -> DesiredServing:
        now = self.serving
        if version not in self._versions:
            raise IllegalCommand(f"there is no version {version}; known: {_listed(self._versions)}")
        if version in now.blocked:
            raise IllegalCommand(f"version {version} is blocked already")
        blocked = tuple(sorted({*now.blocked, version}))
        if version != now.champion:
            return replace(now, blocked=blocked)
        return replace(self._serve(self._parent(version)), blocked=blocked)

    def _parent(self, version: int) -> int:
        """The nearest ancestor that may serve."""
        if version == 0:
            raise IllegalCommand("no version is served: promote one by its number")
        known = self._versions.get(version)
        while known is not None and known.parent:
            if known.parent in self._versions and known.parent not in self.serving.blocked:
                return known.parent
            known = self._versions.get(known.parent)
        raise IllegalCommand(
            f"version {version} has no ancestor to fall back to: promote another version first, or retire "
            "the model"
        )


def _named(command: Command) -> int:
    if command.version is None:
        raise IllegalCommand(f"{command.action} needs a version")
    return command.version


def _listed(versions: Mapping[int, KnownVersion]) -> str:
    return ", ".join(str(version) for version in sorted(versions)) or "none"


SERVING_ACTIONS: frozenset[Action] = frozenset({"promote", "rollback", "pin", "unpin", "block", "retire"})
