# make quickstart   make .venv, install, measure, write a report
# make test         everything that can be checked without a GPU
# make gpu-test     the tests that need a CUDA device, with the environment's own Python

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint types imports unit gpu-test clean

quickstart: $(VENV)/installed
	$(BIN)/hybridbench quickstart

test: $(VENV)/installed-dev lint types imports unit

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

unit:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

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

clean:
	rm -rf $(VENV) build dist *.egg-info
