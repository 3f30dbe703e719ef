# Everything that a contributor or an operator types. A fresh machine needs Python 3.11 or later, and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
COMBINED := -n 2 --dist loadgroup tests/conformance tests/peers

.PHONY: help serve check test combinations bench format clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The virtual environment is made anew where it is missing and brought up to date when the pins change.
$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Hythe needs Python 3.11 or later; $(PYTHON) is not. Name another: make serve PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "Python cannot make an environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing Hythe's dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

serve: $(VENV)/.base ## run a registry on 127.0.0.1:5000
	@exec $(BIN)/hythe serve

check: $(VENV)/.dev ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

test: $(VENV)/.dev ## every test; installs Debian's docker, podman and others when it may
	$(BIN)/python -m tests.support.debian
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not alone"
	$(BIN)/python -m pytest -m alone
	$(MAKE) --no-print-directory combinations
endif

# The specification and real clients on every combination of index and storage; SQLite on a directory is above. Those
# on PostgreSQL meet three servers behind nginx, each request another one.
combinations: $(VENV)/.dev
	TEST_REPLICAS=3 TEST_INDEX=postgres $(BIN)/python -m pytest -q $(COMBINED)
	TEST_STORAGE=s3 $(BIN)/python -m pytest -q $(COMBINED)
	TEST_REPLICAS=3 TEST_INDEX=postgres TEST_STORAGE=s3 $(BIN)/python -m pytest -q $(COMBINED)

bench: $(VENV)/.dev ## measure beside Debian's docker-registry
	$(BIN)/python -m tests.support.debian
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
