"""Measure false alarms of categories of many values: ``python -m tests.support.monitor.calibration [N]``.

Each trial draws a reference of so many rows and five windows of live rows from the same shares, served in
batches, on the way that production takes: the joiner's vitals, then the monitor. Written: trials with an
alarm, for each number of values and rows.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tests.support.monitor.served import ServedModel, profile_of, rows_of

Shares = npt.NDArray[np.float64]

WINDOWS = 5
REFERENCE_ROWS = (200, 500, 2_000, 5_000, 20_000)


def equal(count: int) -> Shares:
    return np.full(count, 1 / count)


def falling(count: int, exponent: float) -> Shares:
    shares = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return shares / shares.sum()


def drawn(shares: Shares, count: int, source: np.random.Generator) -> list[str]:
    names = [f"v{number:04d}" for number in range(len(shares))]
    return [names[place] for place in source.choice(len(shares), count, p=shares).tolist()]


KINDS: dict[str, Shares] = {
    "2 equal": equal(2),
    "20 equal": equal(20),
    "50 equal": equal(50),
    "150 equal": equal(150),
    "300 equal": equal(300),
    "500 equal": equal(500),
    "1,000 equal": equal(1_000),
    "400, rank^-0.3": falling(400, 0.3),
    "400, rank^-1": falling(400, 1.0),
}


def alarms(shares: Shares, reference_rows: int, batch: int, seed: int) -> int:
    source = np.random.default_rng((seed, reference_rows, batch, len(shares)))
    served = ServedModel(profile_of(rows_of("c", drawn(shares, reference_rows, source))))
    window = served.spec.detectors.data.window
    served.serve(rows_of("c", drawn(shares, WINDOWS * window, source)), batch=batch)
    return len(served.drift())


def table(trials: int) -> Iterator[str]:
    total = alarmed = 0
    yield f"| values | {' | '.join(f'{rows:,} rows' for rows in REFERENCE_ROWS)} |"
    for name, shares in KINDS.items():
        cells: list[str] = []
        for rows in REFERENCE_ROWS:
            found = [
                alarms(shares, rows, batch, seed) > 0
                for seed, batch in zip(range(trials), itertools.cycle((20, 200)))
            ]
            cells.append(f"{sum(found)}")
            total, alarmed = total + trials, alarmed + sum(found)
        yield f"| {name} | {' | '.join(cells)} |"
    yield f"{alarmed} of {total} trials of {WINDOWS} windows had an alarm"


def main() -> None:
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
        print(line, flush=True)


if __name__ == "__main__":
    main()
