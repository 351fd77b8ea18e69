# Every target makes .venv itself when it is missing or older than what it was made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard csrc/cpu/*) setup.py pyproject.toml
DEMO := runs/demo

.PHONY: demo test bench bench-million lint format clean

$(VENV)/installed: $(CORE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable ".[selfsup]" --group test
	$(BIN)/python -c "import sinkhorn_ot._cpu" || \
		{ echo "The C++ core did not build; $(BIN)/pip install -v -e . tells why."; exit 1; }
	touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install --quiet --group lint
	touch $@

$(VENV)/peers: $(VENV)/installed
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m sinkhorn_ot
	rm -rf $(DEMO)
	$(BIN)/python -m selfsup train digits --out $(DEMO)
	$(BIN)/python -m selfsup evaluate $(DEMO)

test: $(VENV)/installed
	$(BIN)/python -m pytest

# 100,000 x 1,000 and 10,000 x 100, all solvers
bench: $(VENV)/peers
	$(BIN)/python benchmarks/compare.py run --size 10000x100 --size 100000x1000
	$(BIN)/python benchmarks/compare.py table

# a million by a thousand as well, and the plot; some two hours, as the peers are slow
bench-million: bench
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000 --solvers sinkhorn_ot --tol 1e-3 1e-6
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000 --families peaked --tol 1e-4 \
		--solvers sinkhorn_ot torch_two_matvec
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000 --solvers sinkhorn_ot \
		--memory-limit 0.02
	$(BIN)/python benchmarks/compare.py table
	$(BIN)/python benchmarks/compare.py plot

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
