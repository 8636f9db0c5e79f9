#!/usr/bin/env bash
# Trains on Kubernetes with JobSet, on nodes with GPUs or on a TPU slice of GKE:
#   IMAGE=registry/muskie CLAIM=shared HOSTS=2 GPUS=8 bash launch/kubernetes.sh \
#     --config configs/muskie_base.py --config.sources.photos.root=/shared/scenes --workdir /shared/runs/base
#   IMAGE=registry/muskie CLAIM=shared TPU=tpu-v5-lite-podslice TOPOLOGY=4x4 bash launch/kubernetes.sh ...
# IMAGE is built with launch/Dockerfile. CLAIM is a PersistentVolumeClaim that all pods write to, mounted at MOUNT
# (/shared). NAME (muskie) is the name of the run. CHIPS (4) is the number of chips per TPU host. DRY_RUN=1 prints the
# manifest instead of applying it.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/command.sh

check_number() { # NAME VALUE EXAMPLE
  case $2 in '' | *[!0-9]* | 0*) fail "$1=$2 must be a number above 0, such as $1=$3" ;; esac
}

# Quotes words as a YAML list: "one", "two".
words() {
  local word comma=''
  for word; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//$'\n'/\\n}
    word=${word//$'\t'/\\t}
    printf '%s"%s"' "$comma" "$word"
    comma=', '
  done
}

fill() { # NAME YAML
  manifest=${manifest//@$1@/"$2"}
}

# --- Check ---------------------------------------------------------------------------------------------------
NAME=${NAME:-muskie} MOUNT=${MOUNT:-/shared} CHIPS=${CHIPS:-4} HOSTS=${HOSTS:-1}
[ -n "${IMAGE:-}" ] || fail "IMAGE is missing: set IMAGE=registry/name, made with launch/Dockerfile, before bash"
[ -n "${CLAIM:-}" ] || fail "CLAIM is missing: set CLAIM=name, a volume claim that all pods write to, before bash"
case $NAME in
  *[!a-z0-9-]* | [!a-z]* | *-) fail "NAME=$NAME must be lowercase letters, digits and hyphens, such as NAME=muskie" ;;
esac
[ -z "${TPU:-}" ] || [ -z "${GPUS:-}" ] || fail "TPU=$TPU and GPUS=$GPUS exclude each other: set one of them"
if [ -n "${TPU:-}" ]; then
  check_number CHIPS "$CHIPS" 4
  case ${TOPOLOGY:-} in
    '' | *[!0-9x]* | x* | *x | *xx*) fail "TOPOLOGY=${TOPOLOGY:-} must be the chips along each side, such as 4x4" ;;
  esac
  chips=$((${TOPOLOGY//x/*}))
  HOSTS=$((chips / CHIPS))
  [ $((HOSTS * CHIPS)) = "$chips" ] || fail "CHIPS=$CHIPS does not divide TOPOLOGY=$TOPOLOGY: set CHIPS to those of one host"
else
  check_number GPUS "${GPUS:-}" 8
  check_number HOSTS "$HOSTS" 2
fi
check_arguments "$@"
need_program kubectl "install it, and log in to the cluster"

# --- Fill in -------------------------------------------------------------------------------------------------
own=("--stopped_exit_code=$STOPPED")
[ "$HOSTS" = 1 ] || own+=(--distributed)
if [ -n "${TPU:-}" ]; then
  devices="{google.com/tpu: $CHIPS}"
  nodes="cloud.google.com/gke-tpu-accelerator: $(words "$TPU")"
  nodes="{$nodes, cloud.google.com/gke-tpu-topology: $(words "$TOPOLOGY")}"
  annotations='{alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool}' # pods share a slice
else
  devices="{nvidia.com/gpu: $GPUS}" nodes='{}' annotations='{}'
  # JAX detects the processes of a GKE job on TPUs, but not on GPUs. Kubernetes replaces $(PROCESS_ID) by a pod's index.
  [ "$HOSTS" = 1 ] ||
    own+=("--coordinator=$NAME-trainer-0-0.$NAME:8476" "--num_processes=$HOSTS" '--process_id=$(PROCESS_ID)')
fi
manifest=$(cat launch/jobset.yaml)
fill NAME "$(words "$NAME")"
fill HOSTS "$HOSTS"
fill IMAGE "$(words "$IMAGE")"
fill CLAIM "$(words "$CLAIM")"
fill MOUNT "$(words "$MOUNT")"
fill CACHE "$(words "${JAX_COMPILATION_CACHE_DIR:-$MOUNT/.cache/jax}")"
fill DEVICES "$devices"
fill NODES "$nodes"
fill ANNOTATIONS "$annotations"
fill ARGUMENTS "[$(words "${own[@]}" "${@//\$/\$\$}")]" # Kubernetes reads $$ as $

# --- Apply ---------------------------------------------------------------------------------------------------
if [ -n "${DRY_RUN:-}" ]; then
  printf '# kubectl apply --filename=- would read:\n%s\n' "$manifest"
else
  kubectl apply --filename=- <<<"$manifest"
fi
