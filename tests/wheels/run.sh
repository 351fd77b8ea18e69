#!/usr/bin/env bash
# Installs the wheel and the source of DIST in fresh environments and tests them: run.sh DIST PYTHON
#
# The wheel has NumPy 2.0 beside it, then the newest one; the source is built without a network.
set -euo pipefail
dist=$(cd "$1" && pwd)
python=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for numpy in "numpy==2.0.*" "numpy"; do
    rm -rf "$work/env"
    "$python" -m venv "$work/env"
    "$work/env/bin/pip" install --quiet "$dist"/*.whl "$numpy" pytest hypothesis ml_dtypes scipy \
        threadpoolctl
    echo "== the wheel, $("$work/env/bin/python" -c "import numpy; print('NumPy', numpy.__version__)")"
    bash "$here/numpy_only.sh" "$work/env/bin/python"
done

rm -rf "$work/env"
"$python" -m venv "$work/env"
"$work/env/bin/pip" install --quiet "setuptools>=77" "pybind11>=3.0" numpy
SINKHORN_OT_CUDA=0 "$work/env/bin/pip" install --quiet --no-index --no-build-isolation --no-deps \
    "$dist"/*.tar.gz
echo "== the source, built without a network"
cd "$work"
"$work/env/bin/python" -c "
import numpy, sinkhorn_ot
assert sinkhorn_ot.available_backends()['cpu'] == 'ok', sinkhorn_ot.available_backends()
assert (sinkhorn_ot.balanced_labels(numpy.zeros((100, 5))).counts == 20).all()
print('ok')"
