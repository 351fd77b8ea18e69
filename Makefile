# Every target makes .venv itself when it is missing or older than what it was made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard csrc/*/*) setup.py pyproject.toml
DEMO := runs/demo
# a worker for each core, of at most four; their OpenMP threads do not burn the others' time by
# spinning while they wait
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest \
	-n logical --maxprocesses 4 --dist worksteal

.PHONY: demo docs wheel test test-kernels test-triton-versions test-aarch64 test-wheel test-gpu gpu-table bench bench-million dry-runs \
	lint format clean

# a pip that knows dependency groups
$(VENV)/pip:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	touch $@

$(VENV)/installed: $(CORE) | $(VENV)/pip
	SINKHORN_OT_CUDA=0 $(BIN)/pip install --quiet --editable ".[selfsup]" --group test
	$(BIN)/python -c "import sinkhorn_ot._cpu" || \
		{ echo "The C++ core did not build; $(BIN)/pip install -v -e . tells why."; exit 1; }
	touch $@

# the CUDA kernels too, by an nvcc that is there or PyPI's, and what else their tests need
$(VENV)/cuda: $(VENV)/installed
	$(BIN)/pip install --quiet --group kernels
	SINKHORN_OT_CUDA=1 $(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install --quiet --group lint
	touch $@

$(VENV)/peers: $(VENV)/installed
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@

$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --quiet --group docs
	touch $@

# the site, in build/docs/index.html; warnings are errors, and so is an example that fails. The
# examples are small: one thread is as fast, and does not wait for another where cores are busy.
docs: $(VENV)/docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -W --keep-going docs build/docs

demo: $(VENV)/installed
	$(BIN)/python -m sinkhorn_ot
	rm -rf $(DEMO)
	$(BIN)/python -m selfsup train digits --out $(DEMO)
	$(BIN)/python -m selfsup evaluate $(DEMO) --baselines untrained pixels kmeans supervised

# what a user runs on a CPU: the core and SeLa
test: $(VENV)/installed
	$(PYTEST) tests/core tests/selfsup

# tests that run on a GPU as well as on what stands in for one
ON_MACHINES := tests/kernels/test_gpu_parity.py tests/kernels/test_gpu_minibatch.py \
	tests/kernels/test_gpu_solves.py

# the GPU kernels, without a GPU; Triton reads TRITON_INTERPRET when a kernel is defined, and a
# process that interprets kernels cannot compile them
test-kernels: $(VENV)/cuda
	$(PYTEST) tests/kernels
	TRITON_INTERPRET=1 SINKHORN_OT_MACHINES=interpreter $(PYTEST) $(ON_MACHINES)
	$(MAKE) test-triton-versions

# Tritons beside torch's own: the oldest that is supported, one between, the newest. Interpreters
# before 3.7 fail with NumPy 2.4.
TRITONS := 3.2.0 3.6.0 3.9.0
$(VENV)/triton-%/installed: | $(VENV)/installed
	rm -rf $(@D)
	$(BIN)/pip install --quiet --no-deps --target $(@D) triton==$* \
		$(if $(filter 3.2.0 3.6.0,$*),"numpy==2.3.*")
	touch $@

# With each: every kernel compiled ahead of time for one or two GPUs of NVIDIA and one of AMD, and in
# the interpreter all single reads and kept entries of the parity suite, in all dtypes and layouts; whole
# solves are left to `test-kernels`, which runs this too.
test-triton-versions: $(TRITONS:%=$(VENV)/triton-%/installed)
	for version in $(TRITONS); do \
		export PYTHONPATH=$(CURDIR)/$(VENV)/triton-$$version && \
		$(BIN)/python -c "import triton; assert triton.__version__ == '$$version', triton" && \
		$(PYTEST) tests/kernels/test_triton_versions.py tests/kernels/test_compiled_triton.py \
			-k "versions or 80 and float64 or 90 and float32 or 90 and bfloat16 or amd and float16 or other" && \
		TRITON_INTERPRET=1 SINKHORN_OT_MACHINES=interpreter $(PYTEST) \
			tests/kernels/test_gpu_parity.py tests/kernels/test_gpu_minibatch.py -k "not longest" \
		|| exit 1; done

# a wheel is for one Python: what makes it has an environment of that Python's own
PACKAGER := $(VENV)/wheel-$(subst /,-,$(PYTHON))
$(PACKAGER)/made: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(@D)/bin/pip install --quiet --group wheel
	touch $@

# dist/: a wheel for PYTHON that runs on any Linux with glibc of this age, and the source; the
# instruction set is chosen at run time, and without SINKHORN_OT_CUDA=1 there are no CUDA kernels in it
wheel: $(PACKAGER)/made
	rm -rf build/wheel dist
	SINKHORN_OT_CUDA=$${SINKHORN_OT_CUDA:-0} $(PACKAGER)/bin/python -m build --outdir build/wheel
	PATH=$(CURDIR)/$(PACKAGER)/bin:$$PATH $(PACKAGER)/bin/auditwheel repair --wheel-dir dist \
		build/wheel/*.whl
	cp build/wheel/*.tar.gz dist/

# wheel and source for PYTHON in fresh environments: with the oldest NumPy, the newest, and
# torch (TORCH=torch==2.6.* for another than the newest); built anew, as a dist/ that is there may be
# older than the code
TORCH ?= torch
test-wheel: wheel
	bash tests/wheels/run.sh dist $(PYTHON) "$(TORCH)"

# the C++ core for AArch64, cross-compiled and run in an emulator (Debian's g++-aarch64-linux-gnu and
# qemu-user)
test-aarch64: $(VENV)/installed
	$(BIN)/pip install --quiet "pybind11>=3.0"
	bash tests/aarch64/run.sh $(BIN)/python

# on a machine with a GPU
test-gpu: $(VENV)/cuda
	SINKHORN_OT_MACHINES=cuda,triton $(BIN)/python -m pytest $(ON_MACHINES) tests/gpu

# the page about the GPU kernels
gpu-table: $(VENV)/cuda
	$(BIN)/python benchmarks/gpu_kernels.py docs/gpu_kernels.md

# the suite, our speed beside peers', and whether it fell behind the stored run; some 5 minutes
bench: $(VENV)/peers
	mkdir -p build
	$(BIN)/python -m pytest benchmarks --benchmark-only -q --benchmark-columns=min,median,rounds \
		--benchmark-json=build/bench.json
	$(BIN)/python benchmarks/guard.py build/bench.json

# 10,000 x 100 to a million by a thousand, each case in a process of its own, then table and plot;
# some two hours, as the peers are slow
bench-million: $(VENV)/peers
	$(BIN)/python benchmarks/compare.py run --size 10000x100 --size 100000x1000
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000 --solvers sinkhorn_ot --tol 1e-3 1e-6
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000 --families peaked --tol 1e-4 \
		--solvers sinkhorn_ot torch_two_matvec
	$(BIN)/python benchmarks/compare.py run --size 1000000x1000 --solvers sinkhorn_ot \
		--memory-limit 0.02
	$(BIN)/python benchmarks/compare.py table
	$(BIN)/python benchmarks/compare.py plot

# what the presets of the paper would need; each in two minutes and 6 GB
dry-runs: $(VENV)/installed
	for preset in cifar10-alexnet cifar100-alexnet svhn-alexnet imagenet-alexnet \
		imagenet-resnet50 imagenet-alexnet-retrain; do \
		$(BIN)/python -m selfsup train $$preset --dry-run || exit 1; done

lint: $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*/* tests/kernels/cuda_host/*

format: $(VENV)/linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*/* tests/kernels/cuda_host/*

clean:
	rm -rf $(VENV) build *.egg-info sinkhorn_ot/*.so
