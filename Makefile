# Everything a person does every day is one short command. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

# The first Python on the path that is new enough; `make PYTHON=/path/to/python test` overrides it.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)

VENV := .venv
BIN := $(VENV)/bin
# As an absolute path in the environment, so that pip's build isolation sees it too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# How many test processes; `make test WORKERS=8` on a larger machine.
WORKERS ?= 2

.PHONY: help demo test lint crash storm histories fuzz bench bench-stall bench-size bench-throughput docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.runtime ## Train, kill with SIGKILL, resume bit for bit, look back, roll back (about a minute)
	@$(BIN)/python -m ciuic demo $(ARGS)

test: lint $(VENV)/.test ## ruff, mypy, then every test
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# Each of so many of the last unsynced changes is lost by itself; all: of any, however old.
RECENT ?= all

crash: $(VENV)/.test ## Every disk that a power cut may leave, with every state of the index (about 15 minutes; RECENT=4: 4)
	CRASH_RECENT=$(RECENT) $(BIN)/python -m pytest -n $(WORKERS) -o timeout=0 -rP tests/crash $(ARGS)

# How often, for make storm; how many, and how long, for make histories.
KILLS ?= 1000
HISTORIES ?= 200
STEPS ?= 75

storm: $(VENV)/.test ## Trainers, readers and gc, killed at any instant: make storm KILLS=1000 (about 10 minutes)
	STORM_KILLS=$(KILLS) $(BIN)/python -m pytest -n $(WORKERS) -o timeout=0 -rP tests/storm $(ARGS)

histories: $(VENV)/.test ## Any history against plain dictionaries: make histories HISTORIES=200 STEPS=75 (about 3 minutes)
	CIUIC_HISTORIES=$(HISTORIES) CIUIC_HISTORY_STEPS=$(STEPS) $(BIN)/python -m pytest -o timeout=0 tests/model $(ARGS)

# How long all fuzz targets together run; ARGS="snapshot tree" runs these alone.
SECONDS = 600

fuzz: $(VENV)/.test ## Fuzz every parser for SECONDS=600; the corpus is kept in .fuzz/
	nice $(BIN)/python tests/fuzz --seconds $(SECONDS) $(ARGS)

lint: $(VENV)/.test ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.runtime ## Measure, and write the tables into docs/benchmarks.md
	$(BIN)/python benchmarks/log.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/memory.py --write docs/benchmarks.md

bench-stall: $(VENV)/.bench ## Measure what a snapshot costs the steps of a training, against others (about 45 minutes)
	$(BIN)/python benchmarks/stall.py --write docs/benchmarks.md --plot docs/images/stall.svg $(ARGS)

# restic and borg are programs, not Python: apt install restic borgbackup. Who is missing is left out, and the tables say so.
bench-size: $(VENV)/.peers ## Measure how small a history gets, against others and against the floor (about 20 minutes)
	$(BIN)/python benchmarks/size.py --write docs/benchmarks.md $(ARGS)

bench-throughput: $(VENV)/.runtime ## Measure durable commits and verified restores, against others (about 20 minutes)
	$(BIN)/python benchmarks/throughput.py --write docs/benchmarks.md $(ARGS)

docs: $(VENV)/.docs ## Build the site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp a set of dependencies: made anew when what is to be installed changed, and only after pip succeeded.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "ciuic needs Python 3.10 or newer on the path; found none." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "Could not make $(VENV): on Debian and Ubuntu, install python3-venv first." >&2; exit 1; }
	@touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing ciuic and what it needs into $(VENV) (torch is large: a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo "Installing the test and lint tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	@echo "Installing the documentation tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime
	@echo "Installing what the benchmarks draw with into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

# zipnn is built with a C compiler. Without one the benchmark runs all the same.
$(VENV)/.peers: $(VENV)/.runtime
	@echo "Installing what bench-size compares with into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[peers]' || \
		echo "Not all of zipnn and hf-xet could be installed: what is missing is left out." >&2
	@touch $@
