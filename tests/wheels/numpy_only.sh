#!/usr/bin/env bash
# The core's tests that need no torch, against the installed package: numpy_only.sh PYTHON
set -euo pipefail
bash "$(dirname "$0")/installed.sh" "$1" tests/core/test_extremes.py \
    tests/core/test_hard_problems.py tests/core/test_newton.py tests/core/test_properties.py
