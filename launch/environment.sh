# Sourced by the launch scripts: makes .venv with what requirements.txt asks for, in the versions that were tested,
# and puts it first on the PATH. PYTHON chooses the interpreter, VENV another place; extra arguments are more packages.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      2>/dev/null && echo "$candidate" && return
  done
  echo "error: no Python 3.11, 3.12 or 3.13 found: install one, or say PYTHON=/path/to/python3" >&2
  return 1
}

use_venv() {
  PATH="$PWD/$VENV/bin:$PATH"
  case $VENV in /*) PATH="$VENV/bin:$PATH" ;; esac
}

install() {
  local python stamp file
  python=$(find_python) || exit 2
  stamp="$("$python" --version) $* $(cat requirements.txt constraints.txt | cksum)"
  file="$VENV/installed-$(echo "$*" | cksum | cut -d' ' -f1)" # quickstart and tests do not undo each other
  if [ "$(cat "$file" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing into $VENV (once, 1.2 GB of disk; with what tests need, 1.8 GB or more) ..." >&2
    "$python" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt "$@"
    echo "$stamp" >"$file"
  fi
  use_venv
}
