#!/usr/bin/env bash
# Trains on the GPUs of this computer: on all, or as selected by GPUS=0 or GPUS=0,1. Arguments go to the trainer:
#   GPUS=0 bash launch/gpu.sh --config configs/muskie_base.py --config.sources.photos.root=scenes --workdir runs/base
# DRY_RUN=1 prints the command instead. One process drives all GPUs. It receives SIGTERM, so that it saves.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
source launch/command.sh

choose_gpus
check_arguments "$@"
export "${settings[@]}"
[ -n "${DRY_RUN:-}" ] || install
check_gpu " with GPUS=$GPUS"
run exec env "${settings[@]}" "${TRAINER[@]}" "$@"
