# Everything a person needs, from a clean clone: only Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test lint types wheel clean help

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(READY)  ## A virtual environment in .venv with the project in it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "driftloop needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[all]'
	@touch $@

$(READY): $(INSTALLED)
	$(INSTALL) --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## The whole loop on a year of real flights (about five minutes)
	$(BIN)/driftloop demo

test: setup  ## All tests, on a real embedded Kafka
	$(BIN)/python -m pytest

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
