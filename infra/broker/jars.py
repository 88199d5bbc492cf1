"""Find or fetch the broker's jars: Maven coordinates and digests in kafka_jars.toml, kept once per user.

Fetching walks no dependency tree: the list names every jar, so it is the same set on every machine, it is
verified before the JVM sees a byte of it, and it comes in parallel (8 s against 26 s with resolution).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ...schemas.errors import BrokerError
from .config import KAFKA_VERSION

JARS_VARIABLE = "DRIFTLOOP_KAFKA_JARS"
_LIST = Path(__file__).with_name("kafka_jars.toml")
_PARALLEL = 8
_TIMEOUT_S = 30

WAYS_ON = (
    f"Three ways on: (1) set {JARS_VARIABLE} to a folder with the jars of Apache Kafka 4, such as the libs/ "
    "folder of its download or another machine's ~/.cache/driftloop; (2) set DRIFTLOOP_BOOTSTRAP_SERVERS to "
    "a running cluster's address; (3) run `docker compose up`, which uses the image apache/kafka."
)


@dataclass(frozen=True, slots=True)
class Jar:
    """One artifact: its Maven coordinate ``group:artifact:version`` and the digest of its file."""

    coordinate: str
    sha256: str

    @property
    def file_name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def listed_jars() -> tuple[Jar, ...]:
    """The jars of the list that ships with driftloop."""
    jars = cast("dict[str, str]", tomllib.loads(_LIST.read_text("utf-8"))["jars"])
    return tuple(Jar(coordinate, sha256) for coordinate, sha256 in jars.items())


def jars_folder(own: Path | None, cache: Path | None = None) -> Path:
    """A folder with the broker's jars, fetched into the user's cache if they are not there yet.

    ``own``: the user's folder, used as it is and never written to. Raises BrokerError with the ways on.
    """
    if own is not None:
        if not any(own.glob("kafka_2.13-4.*.jar")):
            raise BrokerError(f"{JARS_VARIABLE}={own} holds no kafka_2.13-4.*.jar. {WAYS_ON}")
        return own
    folder = (cache or user_cache()) / f"kafka-{KAFKA_VERSION}"
    jars = listed_jars()
    if not all((folder / jar.file_name).is_file() for jar in jars):
        _fetch(jars, folder)
    return folder


def user_cache() -> Path:
    """Where downloads are kept between projects (XDG Base Directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftloop"


def _fetch(jars: Sequence[Jar], folder: Path) -> None:
    """Fetch beside the folder and rename at the end, so that a folder that exists is complete."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as scratch:
            ready = Path(scratch) / "jars"
            ready.mkdir()
            with ThreadPoolExecutor(_PARALLEL) as pool:
                for path in pool.map(_fetch_one, jars, [Path(scratch)] * len(jars)):
                    shutil.move(path, ready / path.name)
            _move_into_place(ready, folder)
    except OSError as error:  # requests' exceptions are OSErrors too: no network, no space, no permission
        raise BrokerError(f"the broker's jars cannot be put into {folder}: {error}. {WAYS_ON}") from error


def _move_into_place(ready: Path, folder: Path) -> None:
    try:
        ready.rename(folder)
    except OSError:
        if folder.is_dir():  # incomplete from an older list, or another process was faster with the same jars
            for path in ready.iterdir():
                path.replace(folder / path.name)
        else:
            raise


def _fetch_one(jar: Jar, scratch: Path) -> Path:
    """The local Maven repository's copy if its digest is right, otherwise a verified download."""
    at_home = Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")
    group, artifact, version = jar.coordinate.split(":")
    kept = at_home.joinpath(*group.split("."), artifact, version, jar.file_name)
    if kept.is_file() and _sha256(kept) == jar.sha256:
        return Path(shutil.copy(kept, scratch / jar.file_name))
    maven = _maven(scratch / "maven")
    try:
        path = cast("Path", maven.create_dependency(jar.coordinate).artifact.resolve())
    except RuntimeError as error:  # jgo's word for "no repository has it" and for a broken download
        raise BrokerError(f"{jar.coordinate} cannot be fetched: {error}. {WAYS_ON}") from error
    if (found := _sha256(path)) != jar.sha256:
        raise BrokerError(
            f"{jar.coordinate} came with SHA-256 {found}, not {jar.sha256}: what serves it has altered it. "
            f"{WAYS_ON}"
        )
    return path


def _maven(repository: Path) -> Any:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerError(
            "the embedded broker needs the package jgo: install driftloop with its extra, "
            f"`pip install 'driftloop[broker]'`. {WAYS_ON}"
        ) from error
    return MavenContext(repo_cache=repository, local_repos=[], timeout=_TIMEOUT_S)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve_list() -> str:
    """The list's text, resolved again from its roots, for a new Kafka version."""
    from jgo.parse import Coordinate

    roots = cast("list[str]", tomllib.loads(_LIST.read_text("utf-8"))["roots"])
    with tempfile.TemporaryDirectory() as scratch:
        maven = _maven(Path(scratch))
        wanted = [maven.create_dependency(replace(Coordinate.parse(root), scope="compile")) for root in roots]
        inputs, transitive = maven.resolver.resolve(wanted)
        needed = [*inputs, *(found for found in transitive if found.scope in ("compile", "runtime"))]
        lines = sorted(
            f'"{found.artifact.groupId}:{found.artifact.artifactId}:{found.artifact.version}" = '
            f'"{_sha256(found.artifact.resolve())}"'
            for found in needed
        )
    head = _LIST.read_text("utf-8").split("[jars]")[0]
    return f"{head}[jars]\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(resolve_list())
