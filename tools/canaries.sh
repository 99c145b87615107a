#!/bin/sh
# Runs the canaries (tests/test_compat.py) with the newest releases of what pyproject.toml gives
# upper bounds, in an environment that is removed afterwards. torch stays as pinned.
set -eu

python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
trap 'exit 130' INT TERM

# The project's own dependencies without their upper bounds, and what runs the tests.
sed -n '/^dependencies = \[/,/^\]/s/^ *"\(.*\)",$/\1/p' pyproject.toml |
    sed 's/,<[0-9.]*//' >"$place/newest.txt"
grep '^torch==' constraints.txt >"$place/pinned.txt"

echo "==> installing the newest releases into $place (some minutes)"
"$python" -m venv "$place/venv"
bin=$place/venv/bin
"$bin/python" -m pip --disable-pip-version-check install -qq --upgrade --no-compile \
    --constraint "$place/pinned.txt" --requirement "$place/newest.txt" pytest pytest-timeout

echo "==> canaries"
"$bin/python" -m pip --disable-pip-version-check list |
    grep -iE '^(mlflow|optuna|ray|torch|transformers) '
# A warning of a newer release is no canary's death.
"$bin/python" -m pytest -p no:cacheprovider -W ignore tests/test_compat.py
