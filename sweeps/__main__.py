"""``python -m sweeps``."""

import sys

if {"run", "resume", "paper"} & {*sys.argv[1:2]} and sys.stdout and sys.stdout.isatty():
    print("reading data (0 s)", end="\r", flush=True)  # importing the rest takes a second

from sweeps.cli.app import main

main()
