#!/usr/bin/env bash
# Runs on every worker for tpu_pod.sh: tpu_worker.sh install, start ARGUMENTS..., follow, or stop.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
source launch/command.sh
LOG=train.log PROCESS=train.pid

running() { # the id may have been reused by another process
  [ -e "$PROCESS" ] && grep -qsa muskie_jax.main "/proc/$(cat "$PROCESS")/cmdline"
}

start() {
  # A process in a new session outlives the connection.
  local command=(setsid env "$CACHE" "${TRAINER[@]}" --distributed "$@")
  if [ -n "${DRY_RUN:-}" ]; then
    run "${command[@]}"
    return
  fi
  ! running || fail "process $(cat "$PROCESS") trains here already: stop it first"
  install "jax[tpu]" gcsfs
  [ ! -e "$LOG" ] || mv "$LOG" "$LOG.old" # not overwritten, since somebody may still follow it
  "${command[@]}" >"$LOG" 2>&1 </dev/null &
  echo $! >"$PROCESS"
}

follow() {
  [ -e "$LOG" ] || fail "there is no log: start a run first"
  if running; then
    exec tail -n 100 -f --pid="$(cat "$PROCESS")" "$LOG"
  fi
  exec tail -n 100 "$LOG"
}

stop() {
  running || return 0
  local process seconds=${SECONDS_TO_SAVE:-600}
  process=$(cat "$PROCESS")
  echo "$(hostname): process $process saves and stops" >&2
  kill -TERM "$process"
  while running && [ $((seconds--)) -gt 0 ]; do sleep 1; done
  if running; then
    echo "$(hostname): it did not stop in time, and is killed; the run can resume from its last checkpoint" >&2
    kill -KILL -- "-$process" # the process group, with its data workers
  fi
}

case ${1:-} in
  install) [ -n "${DRY_RUN:-}" ] || install "jax[tpu]" gcsfs ;;
  start | follow | stop) "$@" ;;
  *) fail "tpu_worker.sh: unknown command '${1:-}': use install, start, follow or stop" ;;
esac
