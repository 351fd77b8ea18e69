#!/usr/bin/env bash
# Installs the wheel and the source of DIST in fresh environments and tests them:
#
#     run.sh DIST PYTHON [TORCH]
#
# The wheel has NumPy 2.0 (or the oldest that this Python can have) beside it, then the newest one,
# then TORCH as well, as pip is asked for it: torch, torch==2.6.*. The source is built without a
# network.
set -euo pipefail
unset PYTHONPATH  # it may name a checkout
dist=$(cd "$1" && pwd)
python=$2
torch=${3:-torch}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tag=$("$python" -c "import sys; print('cp%d%d' % sys.version_info[:2])")
oldest=$("$python" -c "import sys; print({11: '2.0', 12: '2.0', 13: '2.1'}.get(sys.version_info[1], '2.3'))")
test_needs="pytest hypothesis ml_dtypes scipy threadpoolctl"

environment() {  # environment PACKAGES...: a fresh one with these
    rm -rf "$work/env"
    "$python" -m venv "$work/env"
    "$work/env/bin/pip" install --quiet "$@"
}

for numpy in "numpy==$oldest.*" numpy; do
    environment "$dist"/*"-$tag-"*.whl "$numpy" $test_needs
    echo "== the wheel with NumPy alone"
    bash "$here/numpy_only.sh" "$work/env/bin/python"
done

environment "$dist"/*"-$tag-"*.whl "$torch" $test_needs
echo "== the wheel with $("$work/env/bin/pip" list | grep "^torch ")"
bash "$here/installed.sh" "$work/env/bin/python" tests/core/test_torch_ops.py \
    tests/core/test_result.py tests/core/test_codes.py

environment "setuptools>=77" "pybind11>=3.0" numpy $test_needs
SINKHORN_OT_CUDA=0 "$work/env/bin/pip" install --quiet --no-index --no-build-isolation --no-deps \
    "$dist"/*.tar.gz
echo "== the source, built without a network"
bash "$here/installed.sh" "$work/env/bin/python" tests/core/test_properties.py
