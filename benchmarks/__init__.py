"""What driftloop costs, as ratios taken in one run; ``python -m benchmarks.NAME`` or ``make bench-NAME``."""
