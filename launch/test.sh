#!/usr/bin/env bash
# Lints, and runs the tests on the CPU. Arguments go to pytest: bash launch/test.sh -k golden
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install pytest pytest-xdist ruff libtpu # the last (200 MB) compiles for TPUs, without one
for script in launch/*.sh .ci/run; do bash -n "$script"; done
ruff check .
ruff format --check .
exec python -m pytest -n "${TEST_PROCESSES:-2}" "$@"
