"""``python -m sweeps``."""

from sweeps.cli.app import main

main()
