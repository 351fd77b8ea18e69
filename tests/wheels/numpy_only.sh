#!/usr/bin/env bash
# The core's tests that need no torch, against the installed package: numpy_only.sh PYTHON
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here/tests" "$here/benchmarks" "$here/pyproject.toml" "$copy"
cd "$copy"  # no package lies here: the installed one is meant
"$1" -c "import sinkhorn_ot, sys; assert 'torch' not in sys.modules; print(sinkhorn_ot.__file__)"
"$1" -m sinkhorn_ot doctor
"$1" -m pytest -q -p no:cacheprovider tests/core/test_extremes.py tests/core/test_hard_problems.py \
    tests/core/test_newton.py tests/core/test_properties.py
