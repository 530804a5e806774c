# Entry points for people and for CI. Everything runs from a virtual environment that the targets make by themselves.
#
#   make                        what there is
#   make demo                   train, evaluate, tables and pictures
#   make test ARGS="-k golden"  ARGS goes to the command that a target runs
#   make PYTHON=python3.12 ...  which Python to build the environment on (3.11 or newer)
#   make VENV=/some/place ...   where the environment lies

VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

export VENV
ifdef PYTHON
export PYTHON
endif

# What the environment is made from. A stamp that is older than one of these is made again, in place.
SETUP := pyproject.toml requirements.lock scripts/setup_env.sh
RUN := $(VENV)/.stamp-run
DEV := $(VENV)/.stamp-dev
DOCS := $(VENV)/.stamp-docs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env dev demo test properties chaos chaos-live lint format bench wheel docs docs-build lock clean distclean

help: ## show this list
	@echo "usage: make TARGET [ARGS=...] [PYTHON=...] [VENV=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(RUN) ## train an agent, judge it against the rules, leave tables and pictures under results/
	$(BIN)/python scripts/train.py experiment=demo $(ARGS)

# Whole files go to one process each: what they share is made once; those with slow tests first (tests/conftest.py).
# ARGS="-n 0" runs all in this one. Tests start hundreds of processes: where nobody keeps compiled modules, each of them
# compiles all that it imports, and every worker all tests.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(DEV) ## run the tests
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# The tests drive 30 cases of each property, always the same ones; here it is 2,000, others each time.
properties: $(DEV) ## look for cases that break a property, for hours
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -q -n auto --maxprocesses 4 --timeout 36000 -m property $(ARGS)

# A failure names its seed: make chaos FIRST=seed SEEDS=1
SEEDS ?= 1000
FIRST ?= 0
chaos: $(DEV) ## live through seeded days of misfortune, judged by a checker (SEEDS=1000 FIRST=0)
	CHAOS_SEEDS=$(SEEDS) CHAOS_FIRST=$(FIRST) $(BIN)/pytest -q -n auto --maxprocesses 4 tests/chaos/test_chaos.py $(ARGS)

chaos-live: $(DEV) ## the same with real processes, which are killed, stopped and cut off (SEEDS=1000 FIRST=0)
	$(BIN)/python -m tests.chaos.live.run --seeds $(SEEDS) --first $(FIRST) $(ARGS)

lint: $(DEV) ## check formatting, style, types and the layers
	@status=0; \
	for check in "ruff format --check ." "ruff check ." mypy "lint-imports --no-logo"; do \
	    echo "--- $$check"; $(BIN)/$$check || status=1; \
	done; \
	exit $$status

format: $(DEV) ## format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(RUN) ## measure the speed and print it beside this machine's own references
	$(BIN)/python scripts/benchmark.py suite=speed $(ARGS)

wheel: $(DEV) ## build the wheel into dist/
	$(BIN)/python -m pip --disable-pip-version-check wheel -q --no-deps --wheel-dir dist .

docs: $(DOCS) ## serve the documentation site while it is written (it says where)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve $(ARGS)

docs-build: $(DOCS) ## build the documentation site into build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q $(ARGS)

env: $(RUN) ## make the environment that trains and evaluates

dev: $(DEV) ## make the environment with what tests and linters need

lock: ## resolve requirements.lock anew from pyproject.toml
	scripts/setup_env.sh lock

clean: ## remove caches and build outputs (compiled kernels too)
	rm -rf build dist .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find agents envs orchestrator scripts tests .ci -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same, and the environment
	rm -rf $(VENV)

# An environment for development serves every target, so where there is one it is kept in order as such.
$(RUN): $(SETUP)
	@scripts/setup_env.sh $(if $(wildcard $(DEV)),dev,run)
	@touch $@ $(wildcard $(DEV))

$(DEV): $(SETUP)
	@scripts/setup_env.sh dev
	@touch $@ $(RUN)

# What the extra `docs` names, into the same environment, so that a change of the extra is taken up.
$(DOCS): $(DEV)
	@$(BIN)/python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*extras["docs"], sep="\n")' | \
	    $(BIN)/python -m pip --disable-pip-version-check install -q -c requirements.lock -r /dev/stdin
	@touch $@
