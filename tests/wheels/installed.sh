#!/usr/bin/env bash
# Tests of the core against the package that is installed for PYTHON: installed.sh PYTHON TEST...
set -euo pipefail
unset PYTHONPATH  # it may name a checkout
here=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here/tests" "$here/benchmarks" "$here/pyproject.toml" "$copy"
cd "$copy"  # no package lies here either
python=$1
shift
"$python" -c "import sinkhorn_ot, sys
assert 'torch' not in sys.modules
assert 'site-packages' in sinkhorn_ot.__file__, sinkhorn_ot.__file__
assert sinkhorn_ot.available_backends()['cpu'] == 'ok', sinkhorn_ot.available_backends()"
scripts=$("$python" -c "import sysconfig; print(sysconfig.get_path('scripts'))")
"$scripts/sinkhorn-ot" doctor
# selfsup shows its commands, or without its extra says what is missing
said=$("$scripts/selfsup" 2>&1 || true)
grep --max-count 1 "^usage: python -m selfsup\|^error: selfsup needs" <<< "$said"
"$python" -m pytest -q -p no:cacheprovider "$@"
