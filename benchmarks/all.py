"""Run the benchmarks that are named, one process after another: ``python -m benchmarks.all floor join``.

One that fails does not stop the others; the exit code tells at the end that there was one.
"""

from __future__ import annotations

import subprocess
import sys
import time

from rich.console import Console

from .support.process import ROOT


def main() -> None:
    console, failed = Console(), list[str]()
    for name in sys.argv[1:]:
        console.rule(f"{name} ({time.strftime('%H:%M:%S', time.gmtime())})")
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
