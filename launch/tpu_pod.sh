#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU, from a computer where gcloud is logged in:
#   TPU=my-tpu ZONE=us-central2-b bash launch/tpu_pod.sh \
#     --config configs/muskie_base.py --config.sources.photos.root=/shared/scenes --workdir /shared/runs/base
# This copies muskie_jax/ and configs/, installs, starts a run that outlives the connection, and follows its log. If a
# run is already in progress, it saves and stops, and continues with the new code and arguments. Instead of arguments:
#   follow    shows the log again; Ctrl-C stops following, not the run
#   stop      saves and stops the run
# PREPARE is a command that every worker runs first, such as PREPARE='sudo mount ...'. DRY_RUN=1 prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/command.sh
WORKER="bash muskie_jax/launch/tpu_worker.sh"
ARCHIVE=muskie_jax.tar.gz

gcloud_tpu() {
  local verb=$1
  shift
  run gcloud compute tpus tpu-vm "$verb" "$@" --zone="$ZONE"
}

start() {
  # Workers keep compiled programs on their own disks, unless JAX_COMPILATION_CACHE_DIR names a shared folder.
  local settings=${JAX_COMPILATION_CACHE_DIR:+$(quote "$CACHE") } unpack install
  unpack="mkdir -p muskie_jax && cd muskie_jax && if [ -e launch ]; then bash launch/tpu_worker.sh stop; fi"
  unpack+=" && rm -rf muskie_jax configs launch && tar -xzf ../$ARCHIVE"
  install="${PREPARE:+bash -c $(quote "$PREPARE") && }bash launch/tpu_worker.sh install"
  run mkdir -p .cache
  run tar -czf ".cache/$ARCHIVE" --exclude=__pycache__ muskie_jax configs launch \
    requirements.txt constraints.txt pyproject.toml README.md LICENSE
  gcloud_tpu scp ".cache/$ARCHIVE" "$TPU:" --worker=all
  gcloud_tpu ssh "$TPU" --worker=all --command="$unpack && $install"
  # Starts only after all workers have installed, since workers wait at most five minutes for one another.
  gcloud_tpu ssh "$TPU" --worker=all --command="$settings$WORKER start $(quote "$@")"
  follow
}

follow() {
  gcloud_tpu ssh "$TPU" --worker=0 --command="$WORKER follow"
}

stop() {
  gcloud_tpu ssh "$TPU" --worker=all --command="$WORKER stop"
}

[ -n "${TPU:-}" ] || fail "TPU is missing: set TPU=its-name before bash"
[ -n "${ZONE:-}" ] || fail "ZONE is missing: set ZONE=us-central2-b, or where the TPU is, before bash"
need_program gcloud "install Google's Cloud SDK, and run gcloud auth login"
case $* in
  follow | stop) "$1" ;;
  *)
    check_arguments "$@"
    start "$@"
    ;;
esac
