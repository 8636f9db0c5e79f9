# Sourced by the launch scripts: creates .venv with the package (editable) and the tested versions of its requirements,
# and puts it first on PATH. PYTHON selects the interpreter, VENV another folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
PIP=(-m pip --disable-pip-version-check)

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      2>/dev/null && echo "$candidate" && return
  done
  echo "error: no Python 3.11, 3.12 or 3.13 found: install one, or set PYTHON=/path/to/python3" >&2
  return 1
}

activate() { # FOLDER
  case $1 in /*) PATH="$1/bin:$PATH" ;; *) PATH="$PWD/$1/bin:$PATH" ;; esac
}

# Succeeds if the content of FILE is TEXT.
is_stamped() { # FILE TEXT
  [ "$(cat "$1" 2>/dev/null)" = "$2" ]
}

# Creates or updates $VENV, with PACKAGES (such as "jax[tpu]") in addition to the requirements.
install() { # PACKAGES...
  local python stamp file
  python=$(find_python) || exit 2
  stamp="$("$python" --version) $PWD $* $(cat requirements.txt constraints.txt pyproject.toml | cksum)"
  file="$VENV/installed"
  if ! is_stamped "$file" "$stamp"; then
    echo "Installing into $VENV (once, 1.3 GB of disk) ..." >&2
    "$python" -m venv "$VENV"
    "$VENV/bin/python" "${PIP[@]}" install --quiet -r requirements.txt -c constraints.txt "$@"
    "$VENV/bin/python" "${PIP[@]}" install --quiet --no-deps --editable .
    echo "$stamp" >"$file"
  fi
  activate "$VENV"
}

# Creates or updates FOLDER, a second environment that sees $VENV and adds PACKAGES without changing it. Python compiles
# their modules when they are first imported: pip would compile all of them, which takes longer than to install them.
install_on_top() { # FOLDER PACKAGES...
  local folder=$1 stamp file
  shift
  stamp="$(cat "$VENV/installed") $*"
  file="$folder/installed"
  if ! is_stamped "$file" "$stamp"; then
    echo "Installing $* into $folder (once) ..." >&2
    "$VENV/bin/python" -m venv --without-pip --clear "$folder"
    "$VENV/bin/python" - "$folder" <<'PYTHON'
import pathlib, sys, sysconfig
folder = pathlib.Path(sys.argv[1]).resolve()
own = sysconfig.get_path("purelib", vars={"base": folder, "platbase": folder})
below = sysconfig.get_path("purelib")
pathlib.Path(own, "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
PYTHON
    "$VENV/bin/python" "${PIP[@]}" --python "$folder/bin/python" install --quiet --no-compile -c constraints.txt "$@"
    echo "$stamp" >"$file"
  fi
  activate "$folder"
}
