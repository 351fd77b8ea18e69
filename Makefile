# Every target makes .venv itself when it is missing or older than what it was made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard csrc/cpu/*) setup.py pyproject.toml
DEMO := runs/demo

.PHONY: demo test bench lint format clean

$(VENV)/installed: $(CORE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable ".[selfsup,bench]" --group test
	$(BIN)/python -c "import sinkhorn_ot._cpu" || \
		{ echo "The C++ core did not build; $(BIN)/pip install -v -e . tells why."; exit 1; }
	touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install --quiet --group lint
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m sinkhorn_ot
	rm -rf $(DEMO)
	$(BIN)/python -m selfsup train digits --out $(DEMO)
	$(BIN)/python -m selfsup evaluate $(DEMO)

test: $(VENV)/installed
	$(BIN)/python -m pytest

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks/test_solvers.py

lint: $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/cpu/*

format: $(VENV)/linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/cpu/*

clean:
	rm -rf $(VENV) build *.egg-info sinkhorn_ot/*.so
