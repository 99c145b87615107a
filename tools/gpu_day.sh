#!/bin/sh
# Shows in minutes that the project works on this machine's GPU, and writes a record:
#   tools/gpu_day.sh [--dry] [--only STAGE...] [--model FOLDER --rows FILE] --out FOLDER
# Stages and options: benchmarks/gpu_day.py. --dry runs every stage small, on a CPU too.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$root/benchmarks/gpu_day.py" "$@"
