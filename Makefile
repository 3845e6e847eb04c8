# Two commands on a fresh machine with Python >= 3.10 and a C++ compiler: `make demo` and `make test`.
# Everything is set up in .venv once, and again only when what is installed changes.

PYTHON ?= python3
# Another torch: make TORCH=torch==2.11.0 …   An empty TORCH leaves the choice to pip.
TORCH ?= torch==2.13.0
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTEST := $(PY) -m pytest
CASES ?=

.PHONY: help setup demo test check fast conformance bench golden judge-matrix clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP)  ## set up .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=…")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt $(TORCH) "numpy<2.4"
	$(PY) -m pip install -q -c constraints.txt -e '.[dev,models,bench]'
	@touch $@

demo: setup  ## optimise a real model here: what was found, judged and won, and the speed against eager and Inductor
	$(PY) examples/demo.py

test: setup  ## the tests; no GPU needed
	$(PYTEST) -m "not conformance and not gpu" $(CASES)

check: setup  ## lint, types, import layers, then the tests that take seconds
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(MAKE) fast

fast: setup  ## the tests without the real models
	$(PYTEST) -q -m "not conformance and not gpu" --ignore=tests/models --ignore=tests/conformance $(CASES)

conformance: setup  ## the long tests: op_db, larger models, the built wheel (resumes where it stopped)
	$(PYTEST) -m conformance --timeout=0 $(CASES)

bench: setup  ## the speed tables: operators, compile time, models
	$(PY) benchmarks/cpu_grid.py
	$(PY) benchmarks/compile_time.py
	$(PY) benchmarks/models.py

golden: setup  ## rewrite the golden generated sources
	$(PY) tests/agents/lowering/test_golden.py

judge-matrix: setup  ## docs/judge.md: which attacks on the judge are caught here, and how
	$(PY) -m tests.attacks.matrix

clean:  ## remove what setup and the tests made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
