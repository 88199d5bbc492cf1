"""What the peers run in: a virtual environment each, and compiled Java; made once, kept in the cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, cast

from driftloop.infra.broker.config import KAFKA_VERSION
from driftloop.infra.broker.jars import user_cache
from driftloop.infra.broker.java import find_java

CACHE = user_cache() / "bench"
JAVA_SOURCE = Path(__file__).with_name("KafkaStreamsPeer.java")

# Pinned to what these figures were taken with.
PACKAGES: dict[str, tuple[str, ...]] = {
    "faust": (
        "faust-streaming==0.15.3",
        "aiokafka==0.14.0",
        "cramjam==2.14.0",
        "orjson==3.13.0",
        "river==0.26.1",
    ),
    "quix": ("quixstreams==3.28.1", "river==0.26.1"),
    "bytewax": ("bytewax==0.21.1", "confluent-kafka==2.16.1", "orjson==3.13.0", "river==0.26.1"),
}
STREAMS_JARS = (f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")


class Missing(Exception):
    """A peer cannot run here; the message is what its row says."""


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment, which has exactly its packages.

    Raises Missing when they cannot be installed.
    """
    packages = PACKAGES[peer]
    folder = CACHE / f"{peer}-py{sys.version_info[0]}{sys.version_info[1]}"
    recorded, python = folder / "packages.txt", folder / "bin" / "python"
    if recorded.is_file() and recorded.read_text() == "\n".join(packages):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    recorded.write_text("\n".join(packages))
    return python


def java_command() -> list[str]:
    """What runs the compiled peer. Raises Missing where there is no JDK, or its jars cannot be fetched."""
    compiler = shutil.which("javac")
    if compiler is None:
        raise Missing("no JDK installed (javac)")
    folder = CACHE / f"kafka-streams-{KAFKA_VERSION}"
    if not folder.is_dir():
        _fetch(folder)
    jars = f"{folder}/*"
    classes = CACHE / "classes"
    compiled = classes / "KafkaStreamsPeer.class"
    if not compiled.is_file() or compiled.stat().st_mtime < JAVA_SOURCE.stat().st_mtime:
        # For 17: the JRE that runs it may be older than the JDK that compiles it.
        subprocess.run(
            [compiler, "--release", "17", "-cp", jars, "-d", str(classes), str(JAVA_SOURCE)], check=True
        )
    log_level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return [str(find_java()), log_level, "-Xmx768m", "-cp", f"{classes}:{jars}", "KafkaStreamsPeer"]


def _fetch(folder: Path) -> None:
    try:
        from jgo.maven import MavenContext
        from jgo.parse import Coordinate
    except ImportError as error:
        raise Missing("jgo is not installed: pip install 'driftloop[broker]'") from error
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        maven: Any = MavenContext(repo_cache=Path(scratch) / "maven", local_repos=[], timeout=30)
        try:
            wanted = [maven.create_dependency(Coordinate.parse(jar)) for jar in STREAMS_JARS]
            inputs, transitive = maven.resolver.resolve(wanted)
            ready = Path(scratch) / "jars"
            ready.mkdir()
            for found in [*inputs, *(one for one in transitive if one.scope in ("compile", "runtime"))]:
                shutil.copy(cast("Path", found.artifact.resolve()), ready)
        except (RuntimeError, OSError) as error:  # jgo's word for "no repository has it"
            raise Missing(f"its jars cannot be fetched: {error}") from error
        ready.rename(folder)
