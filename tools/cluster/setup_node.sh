#!/usr/bin/env bash
# Installs the pinned packages into ~/env, or does nothing when they are there already; and, where
# they are missing, pip, the compiler that Triton needs, and bubblewrap, the sandbox.
# Beside this file lie pyproject.toml and constraints.txt, as cluster.yaml mounts them.
set -euo pipefail
cd "$(dirname "$0")"

wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d ' ' -f 1)
if [ "$(cat ~/env/.installed 2>/dev/null)" != "$wanted" ]; then
    missing=()
    command -v gcc > /dev/null || missing+=(gcc libc6-dev)
    command -v bwrap > /dev/null || missing+=(bubblewrap)
    python3 -m pip --version > /dev/null 2>&1 || missing+=(python3-pip)
    if [ ${#missing[@]} -gt 0 ]; then
        as_root=$(command -v sudo || true)
        wait=DPkg::Lock::Timeout=300  # a node that has just started may update itself
        { $as_root apt-get -qq -o $wait update && $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq -o $wait install --no-install-recommends "${missing[@]}" > /dev/null; } ||
            echo "warning: not installed: ${missing[*]}" >&2
    fi
    # Newer systems refuse it without this, and older ones do not know the option.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv==0.13.9
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
