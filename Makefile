# Everything is set up in .venv by the first target that needs it; a stamp makes the next run instant.
#   make demo      a picture from words, offline once installed
#   make test      the fast tests            make test-all   every test
#   make check     ruff and pyright          make bench      speed, beside diffusers on the same weights

PYTHON ?= python3
# What pip is asked for first, so that nothing else pulls another build of it: "make TORCH=torch==2.13.0+cpu demo" works where pip knows PyTorch's CPU index.
TORCH ?= torch
PROMPT ?= a red sphere to the left of a blue cube

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
CORE := .venv/.stamp-core
DEV := .venv/.stamp-dev

.PHONY: demo test test-all check format bench clean
.DEFAULT_GOAL := demo

$(CORE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Mezzotint needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (torch is large: the first time takes a few minutes)"
	$(PIP) $(TORCH)
	$(PIP) --editable .
	@touch $@

$(DEV): $(CORE)
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(CORE)
	$(BIN)/mezzotint generate "$(PROMPT)" --seed 7 -o demo.png
	@echo "The picture is in $(CURDIR)/demo.png"

test: $(DEV)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(DEV)
	$(BIN)/python -m pytest

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis demo.png
