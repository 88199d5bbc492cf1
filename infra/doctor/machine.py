"""What can be wrong with this machine: keys, packages, disks and the spec file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from ...models.registry.signing import (
    SIGNING_KEY,
    TRUSTED,
    key_id_of,
    load_verifier,
    read_private,
    revoked_ids,
)
from ...schemas.errors import SettingsError, SpecError
from ...schemas.spec.file import load_deployment
from ..settings import Settings
from .findings import Finding

LEAST_FREE_BYTES = 1_000_000_000
LEAST_FREE_SHARE = 0.05


def check_machine(settings: Settings) -> Iterator[Finding]:
    """Check keys, packages, disks and the spec file of this machine."""
    yield from check_keys(settings.keys_path())
    yield from check_packages()
    yield from check_disk("state folder", settings.state_dir)
    store = settings.store_url()
    if "://" not in store:
        yield from check_disk("artifact store", Path(store))
    yield from check_spec_file(settings.config)


def check_keys(keys_dir: Path) -> Iterator[Finding]:
    """Check the signing key (where the trainer runs) and the trusted keys."""
    try:
        load_verifier(keys_dir)
        trusted = sorted(path.stem for path in (keys_dir / TRUSTED).glob("*.pub"))
    except (SettingsError, OSError) as error:
        yield Finding("keys", "fault", str(error), "remove or correct that file")
        return
    path = keys_dir / SIGNING_KEY
    if not path.exists():
        if trusted:
            yield Finding("keys", "ok", f"trusts {', '.join(trusted)}; no signing key, as on servers")
        else:
            fix = f"copy the trainer's {TRUSTED}/KEY_ID.pub here; it makes its key when it first runs"
            yield Finding("keys", "warning", f"no keys in {keys_dir}: no version can be verified", fix)
        return
    try:
        key_id = key_id_of(read_private(path).public_key())
    except (SettingsError, OSError) as error:
        yield Finding("keys", "fault", str(error), f"chmod 600 {path}, or make a new key: driftloop keys new")
        return
    if key_id in revoked_ids(keys_dir):
        fix = "driftloop keys new, then driftloop keys use KEY_ID"
        yield Finding("keys", "fault", f"the signing key {key_id} was revoked", fix)
    elif key_id not in trusted:
        fix = f"put its public key at {keys_dir / TRUSTED}/{key_id}.pub, here and on every server"
        yield Finding("keys", "fault", f"the signing key {key_id} is not among the trusted ones", fix)
    else:
        yield Finding("keys", "ok", f"signs with {key_id}, trusts {', '.join(trusted)}")


def check_packages(distribution: str = "driftloop") -> Iterator[Finding]:
    """Check that the installed packages are those that this version of driftloop needs."""
    try:
        needed = [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:
        fix = "install it: pip install driftloop"
        yield Finding("packages", "fault", f"{distribution} is not installed as a package", fix)
        return
    yield from check_requirements(needed, version(distribution))


def check_requirements(needed: list[Requirement], of_version: str) -> Iterator[Finding]:
    wrong = False
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = None
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong = True
            state = "is missing" if found is None else f"is {found}"
            what = f"{requirement.name} {state}, needed: {requirement.name}{requirement.specifier}"
            yield Finding("packages", "fault", what, f"pip install '{requirement}'")
    if not wrong:
        yield Finding("packages", "ok", f"driftloop {of_version}, and all that it needs")


def check_disk(
    name: str, folder: Path, *, least_bytes: int = LEAST_FREE_BYTES, least_share: float = LEAST_FREE_SHARE
) -> Iterator[Finding]:
    """Check that state, spilled events and artifacts have space to grow."""
    there = next((part for part in (folder.absolute(), *folder.absolute().parents) if part.exists()), None)
    if there is None or (there == folder.absolute() and not there.is_dir()):
        yield Finding("disk", "fault", f"{name}: {folder} is not a folder", "set DRIFTLOOP_STATE_DIR to one")
        return
    usage = shutil.disk_usage(there)
    free = f"{name} {folder}: {usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB are free"
    if usage.free < least_bytes or usage.free < least_share * usage.total:
        yield Finding("disk", "fault", free, "free some, or move it to a larger disk (DRIFTLOOP_STATE_DIR)")
    else:
        yield Finding("disk", "ok", free)


def check_spec_file(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding("spec file", "ok", f"no {path} here: specs are applied from elsewhere")
        return
    try:
        deployment = load_deployment(path)
    except SpecError as error:
        for problem in error.problems:
            yield Finding("spec file", "fault", f"{path}: {problem}", "correct it, then driftloop apply")
        return
    yield Finding("spec file", "ok", f"{path}: {len(deployment.models)} models")
