#!/usr/bin/env bash
# Installs the pinned packages into ~/env, or does nothing when they are there already.
# Beside this file lie pyproject.toml and constraints.txt, as cluster.yaml mounts them.
set -euo pipefail
cd "$(dirname "$0")"

wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d ' ' -f 1)
if [ "$(cat ~/env/.installed 2>/dev/null)" != "$wanted" ]; then
    python3 -m pip install --user --quiet uv==0.13.9
    rm -f ~/env/.installed
    test -x ~/env/bin/python || ~/.local/bin/uv venv --quiet --seed --python 3.11 ~/env
    ~/.local/bin/uv pip install --quiet --python ~/env/bin/python \
        --constraint constraints.txt --extra cluster --requirement pyproject.toml
    echo "$wanted" > ~/env/.installed
fi

# The first lines: on Ubuntu the rest is not read by shells that are not interactive.
touch ~/.bashrc
if ! grep -q gmt-sweep/environment.sh ~/.bashrc; then
    { echo '. ~/gmt-sweep/environment.sh'; cat ~/.bashrc; } > ~/.bashrc.new
    mv ~/.bashrc.new ~/.bashrc
fi
