"""``python -m tests.soak.monitor --kills 100 --seed 1``: see ``tests.soak.monitor.run``."""

import sys

from tests.soak.monitor.run import main

sys.exit(main())
