# Everything a person needs, from a clean clone: only Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-fast fuzz simulate soak outage late lint types wheel clean help bench poison

help:  ## What there is
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 24

setup: $(READY)  ## A virtual environment in .venv with the project in it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "driftloop needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[all]'
	@touch $@

$(READY): $(INSTALLED)
	$(INSTALL) --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## The whole loop on a year of real flights (about seven minutes)
	$(BIN)/driftloop demo

test: setup  ## All tests, on a real embedded Kafka
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-fast: setup  ## The tests that need no Kafka and take no time (about a minute)
	$(BIN)/python -m pytest -m 'not integration and not slow'

# In this order: what is quick and what others are held against first. Each writes .driftloop/bench/NAME.json.
BENCHES := floor join restore poison scale monitor latency emit swap loop_time peers

bench: $(READY)  ## Every benchmark (about an hour), then one table of all ratios against their targets
	-$(BIN)/python -m benchmarks.all $(BENCHES)
	$(BIN)/python -m benchmarks.report

bench-loop-time: bench-loop_time  ## From a trigger until every server serves the new version

bench-guard-accept: $(READY)  ## Keep today's cost of the join as what the guard compares with
	$(BIN)/python -m benchmarks.guard --accept

bench-%: $(READY)  ## One benchmark: make bench-join
	$(BIN)/python -m benchmarks.$*

KILLS ?= 200
RATE ?= 3000
SEED ?= 1
SECONDS ?= $(shell expr 5 \* $(KILLS))

fuzz: setup  ## The model-based tests, thirty times as long as in the suite (some minutes)
	FUZZ=30 $(BIN)/python -m pytest --timeout=1800 tests/stateful

SEEDS ?= 10000

simulate: $(READY)  ## The roles' shells on a simulated broker, in virtual time: make simulate SEEDS=10000
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

soak: $(READY)  ## Faults under load: make soak KILLS=200 RATE=20000 SECONDS=1000 SEED=1 NETWORK=1 (docs/soak.md)
	$(BIN)/python -m tests.soak --kills $(KILLS) --rate $(RATE) --seconds $(SECONDS) --seed $(SEED) $(if $(NETWORK),--network)

outage: $(READY)  ## The broker away for SECONDS (300) under load: make outage SECONDS=300
	$(BIN)/python -m tests.outage --seconds $(if $(filter command environment,$(origin SECONDS)),$(SECONDS),300)

TRIALS ?= 1000

late: $(READY)  ## Requests that the network delivers late: make late TRIALS=1000 SEED=1
	$(BIN)/python -m tests.late --trials $(TRIALS) --seed $(SEED) $(if $(TRIED),--python $(TRIED))

poison: $(READY)  ## A million malformed records through the joiner, and what one percent of them costs
	$(BIN)/python -m benchmarks.poison

lint: setup  ## Formatting, lint, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	.ci/package-tree
	cd build/tree && PYTHONPATH=. ../../$(BIN)/lint-imports --config ../../pyproject.toml

types: setup  ## Strict types on the source folders
	$(BIN)/pyright

wheel: setup  ## Build the wheel
	$(BIN)/python -m build --wheel --outdir dist .

clean:  ## Remove what was built; .driftloop (data) stays
	rm -rf $(VENV) build dist *.egg-info
