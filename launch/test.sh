#!/usr/bin/env bash
# Lints, then runs the tests that are fast and need no extra packages, on the CPU. Arguments go to pytest:
#   bash launch/test.sh -k golden    only tests with "golden" in their name
#   bash launch/test.sh -m ""        all tests, including slow tests
# pytest and ruff are installed in .venv-test, on top of .venv. EXTRA_PACKAGES="torch transformers" adds packages for
# tests that are otherwise skipped; TEST_PROCESSES sets the number of processes (2).
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install
# shellcheck disable=SC2086 # several words are several packages
install_on_top .venv-test pytest pytest-xdist ruff ${EXTRA_PACKAGES:-}
for script in launch/*.sh .ci/run; do bash -n "$script"; done
ruff check .
ruff format --check .
# Without worksteal, a process that finishes its half early would idle.
exec python -m pytest -n "${TEST_PROCESSES:-2}" --dist worksteal -m "not slow" "$@"
