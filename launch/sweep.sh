#!/usr/bin/env bash
# Trains the runs of a sweep on the GPUs of this computer, one after another, each in its own folder:
#   bash launch/sweep.sh configs/ablations.py --workdir runs/ablations
# Further arguments are settings of all runs; GPUS is as in gpu.sh. Complete runs are skipped, so the same command
# resumes a sweep. In a SLURM array each task trains one run, counted from 1:
#   sbatch --array=1-22 --gpus-per-node=1 --cpus-per-task=16 --mem=64G --time=4:00:00 \
#     launch/sweep.sh configs/ablations.py --workdir /shared/runs/ablations
# DRY_RUN=1 bash launch/sweep.sh ... prints the commands instead, and the number of runs.
#SBATCH --job-name=muskie-sweep
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e launch/command.sh ] || cd "${SLURM_SUBMIT_DIR:-.}" # SLURM runs a copy of this script from another folder
if [ ! -e launch/command.sh ]; then
  echo "error: $PWD is not the project's folder: change to it, then run sbatch launch/sweep.sh" >&2
  exit 2
fi
source launch/environment.sh
source launch/command.sh

say() {
  if [ -n "${DRY_RUN:-}" ]; then echo "# $*"; else echo "$*" >&2; fi
}

# --- Arguments -----------------------------------------------------------------------------------------------
config='' workdir='' value_of=config # flag whose value is the next word, unless that word is a flag
for word; do
  shift
  case $word in
    --config | --workdir) value_of=${word#--} && continue ;;
    --config=*) config=${word#*=} ;;
    --workdir=*) workdir=${word#*=} ;;
    -*) set -- "$@" "$word" ;;
    *)
      case $value_of in
        config) config=$word ;;
        workdir) workdir=$word ;;
        *) set -- "$@" "$word" ;;
      esac
      ;;
  esac
  value_of=''
done
case $workdir in *://*) fail "--workdir=$workdir is a URL: choose a folder" ;; esac
check_arguments ${config:+"--config=$config"} ${workdir:+"--workdir=$workdir"} "$@"
workdir=${workdir%/}
choose_gpus
export "${settings[@]}"
if [ -n "${DRY_RUN:-}" ]; then activate "$VENV"; else install; fi

# --- Runs ----------------------------------------------------------------------------------------------------
listed=$(python -m muskie_jax.sweeps --config "$config" --workdir "$workdir" "$@") || exit 2
names=() states=()
while read -r name state; do
  names+=("$name")
  states+=("$state")
done <<<"$listed"
count=${#names[@]}

# Sets `words` to the trainer's arguments for the run with the given index.
arguments() {
  local separator=:
  case $config in *:*) separator=, ;; esac
  words=(--config "$config$separator${names[$1]}" --workdir "$workdir/${names[$1]}")
}

# --- One run, as a SLURM task --------------------------------------------------------------------------------
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  index=$((SLURM_ARRAY_TASK_ID - 1))
  [ "$index" -ge 0 ] && [ "$index" -lt "$count" ] ||
    fail "$config has no run $SLURM_ARRAY_TASK_ID: run sbatch --array=1-$count"
  if [ "${states[$index]}" = complete ]; then
    say "${names[$index]} is complete"
    exit 0
  fi
  arguments "$index"
  exec bash launch/slurm.sbatch "${words[@]}" "$@"
fi

# --- All runs, in sequence -----------------------------------------------------------------------------------
check_gpu " with GPUS=$GPUS"
# Each run has its own process group, so that Ctrl-C reaches only this script, which sends one SIGTERM to the run.
set -m
child='' stopped=''
stop() {
  stopped=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap stop INT TERM HUP

train() {
  local status=0
  "$@" </dev/null &
  child=$!
  [ -z "$stopped" ] || stop
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, not the run
    status=0
    wait "$child" || status=$?
  done
  child=''
  return "$status"
}

say "$count runs; as a SLURM array: sbatch --array=1-$count ... launch/sweep.sh" \
  "$(quote "$config" --workdir "$workdir" "$@")"
failed=()
for index in "${!names[@]}"; do
  name=${names[$index]}
  if [ "${states[$index]}" = complete ]; then
    say "$((index + 1))/$count $name: complete"
    continue
  fi
  say "$((index + 1))/$count $name: $workdir/$name"
  arguments "$index"
  command=(env "${settings[@]}" "${TRAINER[@]}" "--stopped_exit_code=$STOPPED" "${words[@]}" "$@")
  if [ -n "${DRY_RUN:-}" ]; then run "${command[@]}"; else train "${command[@]}" || failed+=("$name"); fi
  if [ -n "$stopped" ]; then
    say "stopped in $name: the same command goes on from there"
    exit 130
  fi
done

runs=${workdir//\\/\\\\} # escaped for Python
models="(\"${runs//\"/\\\"}/*\", \"untrained\", \"still\", \"patches\")"
say "To evaluate them: $(quote "${TRAINER[@]}" --config configs/evaluate.py --workdir "$workdir/evaluation" \
  "--config.evaluate.models=$models")"
if [ "${#failed[@]}" -gt 0 ]; then
  echo "error: not complete: ${failed[*]} (see the messages above)" >&2
  exit 1
fi
