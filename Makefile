# make quickstart   make .venv, install, measure, write a report
# make test         everything that can be checked without a GPU in five minutes
# make test-all     that, and what takes longer: kernels in Triton's interpreter, compilation, workers that die
# make fuzz         5,000 damaged command lines, configurations and suites, and records each: no traceback, hang or 2 GiB
# make golden       the expected files of tests/golden written anew; read what changed before you commit it
# make gate-simulation   how often the gate's judge alarms and catches, by simulation; a minute of one core
# make docs       the pages as a site in build/site, whose links are checked
# make docs-pages the pages that are made from the program, written anew
# make gpu-test     the tests that need a CUDA device, with the environment's own Python

# Processes that tests start import what is compiled already, also where the environment says to keep none of it.
export PYTHONDONTWRITEBYTECODE =

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-all lint types imports unit unit-all fuzz golden gate-simulation docs docs-pages gpu-test clean

quickstart: $(VENV)/installed
	$(BIN)/hybridbench quickstart

# mypy has one process, which would leave the other cores idle for a minute: it runs beside the tests.
test: $(VENV)/installed-dev lint
	$(MAKE) --no-print-directory --jobs=2 types imports unit

test-all: $(VENV)/installed-dev lint
	$(MAKE) --no-print-directory --jobs=2 types imports unit-all

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

unit:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

unit-all:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

fuzz: $(VENV)/installed-dev
	for kind in commands configs records; do \
		OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzzing.py $$kind --count 5000 --seed 0 || exit 1; \
	done

golden: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/golden --rewrite-golden

gate-simulation: $(VENV)/installed
	$(BIN)/python -m hybridbench.gate.simulation

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-pages: $(VENV)/installed
	$(BIN)/python docs/generate.py

gpu-test:
	$(PYTHON) -m pytest tests/gpu -m gpu

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
