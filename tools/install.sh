#!/bin/sh
# Sets up .venv from pyproject.toml and constraints.txt, once.
# Usage: tools/install.sh run | dev      ("dev" adds the test and lint tools to "run")
set -eu

level=$1
python=${PYTHON:-python3}
here=$(pwd)

if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: '$python' was not found. Install Python 3.11 or newer, or name one: make ... PYTHON=python3.12" >&2
    exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: '$python' is $("$python" --version 2>&1), and Python 3.11 or newer is needed. Name one: make ... PYTHON=python3.12" >&2
    exit 2
fi

# The stamp names everything that the environment depends on, its own place included:
# a moved or copied folder gets a new one.
key=$( { cat pyproject.toml constraints.txt; echo "$here"; "$python" --version; } | cksum | cut -d ' ' -f 1)
stamp=.venv/.installed-$level-$key
if [ -e "$stamp" ]; then exit 0; fi

started=$(date +%s)
if ! ls .venv/.installed-* >/dev/null 2>&1; then
    # No stamp at all: new, or an earlier set-up was interrupted, and a package that was
    # half written would pass for installed. So begin with an empty environment.
    echo "==> creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
rm -f .venv/.installed-*

echo "==> installing the pinned packages into .venv ($level; some minutes the first time)"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install -qq --constraint constraints.txt pip
set -- --editable .
if [ "$level" = dev ]; then set -- "$@" --group dev; fi
pip install -qq --no-compile --constraint constraints.txt --build-constraint constraints.txt "$@"
# Here and with every core, not by pip on one: a study starts some twenty processes, and without
# bytecode (which PYTHONDONTWRITEBYTECODE would keep from ever being written) each takes 9 s
# of a core for its imports instead of 2. Some packages hold templates that are not Python.
.venv/bin/python -m compileall -qq -j 0 .venv/lib || true

if [ "$level" = dev ]; then touch ".venv/.installed-run-$key"; fi
touch "$stamp"
echo "==> installed in $(( $(date +%s) - started )) s"
