#!/usr/bin/env bash
# Attacks small trainings on the CPU for 30 minutes, with one process, with two, and in an S3 emulator: signals, kill -9,
# killed and stopped data workers, pauses, full disks, damaged checkpoints, 503s. Each is started again until it has
# finished. It must then have the parameters and losses of an undisturbed training. Prints a report; the exit code is 1
# if one differs. Linux only.
#   bash launch/soak.sh --minutes 3 --seed 1     other faults, at other times
#   bash launch/soak.sh --processes 2 --disk     with two processes alone, without object storage
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install
# shellcheck disable=SC2086 # several words are several packages
install_on_top .venv-soak pytest s3fs "moto[server]" ${EXTRA_PACKAGES:-}
export PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}"
exec python -m muskie_tests.soak "$@"
