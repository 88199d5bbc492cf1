"""Where the project and the data of its tests are, whatever folder a test lives in."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# New South Wales electricity prices, 1996-98 (Harries 1999); tests that need them are skipped without.
ELEC2 = ROOT.parent / "shared" / "data" / "elec2.csv.gz"
