# Sourced by the scripts that start the trainer: one-line errors, quoting of arguments, dry runs.

TRAINER=(python -m muskie_jax.main)
STOPPED=75 # exit code of a trainer that a signal stopped, which means that it should be started again
# Folder of compiled programs, so that a resumed run does not compile them again.
CACHE="JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"

fail() {
  echo "error: $*" >&2
  exit 2
}

# Quotes words so that any shell reads them back unchanged.
quote() {
  local word space='' escaped="'\\''"
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*)
        word=${word//\'/"$escaped"}
        word="'$word'"
        ;;
    esac
    printf '%s%s' "$space" "$word"
    space=' '
  done
}

# Runs a command; with DRY_RUN=1 prints it instead.
run() {
  if [ -z "${DRY_RUN:-}" ]; then
    "$@"
  else
    [ "$1" != exec ] || shift
    quote "$@"
    echo
  fi
}

need_program() {
  [ -n "${DRY_RUN:-}" ] || command -v "$1" >/dev/null || fail "$1 is not installed here: $2"
}

# Checks arguments before a machine is requested. Work directories may be in object storage.
check_arguments() {
  local word last='' config='' workdir=''
  for word; do
    [ "$last" != --workdir ] || word=--workdir=$word
    case $word in
      --config | --config=*) config=given ;;
      --workdir=gs://*/* | --workdir=s3://*/*) workdir=given ;;
      --workdir=*://*) fail "$word is not supported: choose a folder, gs://bucket/run or s3://bucket/run" ;;
      --workdir | --workdir=*) workdir=given ;;
    esac
    last=$word
  done
  [ -n "$config" ] || fail "--config is missing: pass --config configs/muskie_base.py"
  [ -n "$workdir" ] || fail "--workdir is missing: pass --workdir runs/base"
}

# Sets `settings`, the environment variables of the trainer, from GPUS: all, or numbers such as 0,1.
choose_gpus() {
  GPUS=${GPUS:-all}
  settings=("$CACHE")
  case $GPUS in
    all) ;;
    *[!0-9,]* | ,* | *, | *,,*) fail "GPUS=$GPUS must be all, or numbers such as 0 or 0,1" ;;
    *) settings+=("CUDA_VISIBLE_DEVICES=$GPUS") ;;
  esac
}

# Without this check, JAX would silently train on the CPU if it sees no GPU. JAX_PLATFORMS=cpu allows that.
check_gpu() {
  [ -n "${DRY_RUN:-}" ] || [ "${JAX_PLATFORMS:-}" = cpu ] ||
    python -c 'import jax, sys; sys.exit(jax.default_backend() != "gpu")' 2>/dev/null ||
    fail "JAX sees no GPU$1: run $VENV/bin/python -m pip install -e '.[gpu]' -c constraints.txt" \
      "(and see what nvidia-smi says)"
}
