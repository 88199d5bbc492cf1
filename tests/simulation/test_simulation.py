"""The shells on a simulated broker: clean under every fault, and every planted bug is found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.planted import PLANTED, Planted
from tests.simulation.roles import ROLES, run_seed
from tests.support.paths import ROOT

SEEDS = range(1, 201)  # `make simulate` runs more
SEEDS_FOR_A_BUG = range(1, 401)  # one of them must find it


@pytest.mark.slow
@pytest.mark.parametrize("role", sorted(ROLES))
def test_no_fault_loses_repeats_or_tears_anything(role: str) -> None:
    found = {seed: run.findings.examples for seed in SEEDS if (run := run_seed(role, seed)).findings}
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.bug)
def test_a_planted_bug_is_found(planted: Planted) -> None:
    with planted.plant():
        assert any(run_seed(planted.role, seed).findings for seed in SEEDS_FOR_A_BUG)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_seed_gives_the_same_run_whatever_python_hashes(role: str) -> None:
    code = f"from tests.simulation.roles import run_seed; print(run_seed({role!r}, 12).fingerprint)"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert runs != {run_seed(role, 13).fingerprint + "\n"}
