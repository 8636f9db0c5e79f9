#!/usr/bin/env bash
# Trains a small network on synthetic rooms in about five minutes, without data or a GPU. Arguments go to the trainer:
#   bash launch/quickstart.sh --config.duration="2_000 steps"
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install
WORKDIR=${WORKDIR:-runs/quickstart}
exec python -m muskie_jax.main --config configs/quickstart.py --workdir "$WORKDIR" "$@"
