#!/usr/bin/env bash
# Lints, and runs the tests on the CPU. Arguments go to pytest: bash launch/test.sh -k golden
# Tests that need PyTorch, transformers, ONNX or notebooks are skipped where these are not installed; .ci/run names
# them all in TEST_PACKAGES.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
# shellcheck disable=SC2086 # several words are several packages
install pytest pytest-xdist ruff libtpu ${TEST_PACKAGES:-} # libtpu (200 MB) compiles for TPUs, without one
for script in launch/*.sh .ci/run; do bash -n "$script"; done
ruff check .
ruff format --check .
exec python -m pytest -n "${TEST_PROCESSES:-2}" --dist worksteal "$@" # or one process idles while the other ends
