#!/usr/bin/env bash
# Lints, then runs the tests that need neither minutes nor extra packages, on the CPU. Arguments go to pytest:
#   bash launch/test.sh -k golden    only tests with "golden" in their name
#   bash launch/test.sh -m ""        all tests, slow ones too
# pytest and ruff live in .venv-test, on top of .venv. EXTRA_PACKAGES="torch transformers" installs more there, for
# tests that are otherwise skipped; TEST_PROCESSES sets the number of processes (2).
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install
# shellcheck disable=SC2086 # several words are several packages
install_on_top .venv-test pytest pytest-xdist ruff ${EXTRA_PACKAGES:-}
for script in launch/*.sh .ci/run; do bash -n "$script"; done
ruff check .
ruff format --check .
# worksteal: otherwise one process idles while the other finishes its half.
exec python -m pytest -n "${TEST_PROCESSES:-2}" --dist worksteal -m "not slow" "$@"
