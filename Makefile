# Every target makes .venv when it is needed. PYTHON=… chooses the interpreter (3.11 or newer).

SHELL := /bin/sh
.DEFAULT_GOAL := help

BIN := .venv/bin
# The stamp is named after this directory, so that a moved or copied checkout makes its environment anew.
STAMP := .venv/installed-$(shell pwd -P | cksum | cut -d ' ' -f 1)
IS_RECENT := import sys; sys.exit(sys.version_info < (3, 11))
REQUIREMENTS := requirements.lock
# What make chaos runs: processes on one SQLite file, or on one PostgreSQL, and for how long.
BROKERS ?= --replicas 3
MINUTES ?= 10

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test check bench chaos lock clean

help:
	@echo "make install make .venv with everything, the broker command included"
	@echo "make demo    watch the broker issue, revoke and prove, with real processes"
	@echo "make test    run all tests"
	@echo "make check   lint, format check, types, direction of imports"
	@echo "make bench   measure issuing, verification, revocation, leases and proofs, as ratios"
	@echo "make chaos   ten minutes of kills, cuts and wrong clocks under load, and then the proof (MINUTES=3 BROKERS='--workers 3')"
	@echo "make lock    compile $(REQUIREMENTS) from pyproject.toml (UPGRADE=1: with newer versions)"
	@echo "make clean   remove .venv and caches"

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/broker demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m tests.bench

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos $(BROKERS) --minutes $(MINUTES) --faults 3 --revokers 3 --pause 0.1

$(STAMP): pyproject.toml $(REQUIREMENTS)
	@if [ -e $@ ] && $(BIN)/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c '$(IS_RECENT)' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "This needs Python 3.11 or newer, and none was found. Install one, or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "Making .venv with $$("$$found" --version)"; \
	rm -rf .venv; \
	if "$$found" -c 'import ensurepip, venv' 2>/dev/null; then "$$found" -m venv .venv; \
	elif "$$found" -c 'import virtualenv' 2>/dev/null; then "$$found" -m virtualenv --quiet .venv; \
	elif command -v uv >/dev/null 2>&1; then uv venv --quiet --seed --python "$$found" .venv; \
	else \
	  echo "$$found cannot make virtual environments: it lacks ensurepip. Install the package python3-venv" \
	    "(Debian, Ubuntu), virtualenv or uv, and try again." >&2; \
	  exit 1; \
	fi
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Not by way of the stamp: a lock that is out of date must not stand in the way of making a new one.
lock:
	@[ -x $(BIN)/uv ] || $(MAKE) $(STAMP)
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --annotation-style line --custom-compile-command "make lock" \
	  $(if $(UPGRADE),--upgrade) --output-file $(REQUIREMENTS)

clean:
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* build dist
	find broker tests -name __pycache__ -type d -prune -exec rm -rf {} +
