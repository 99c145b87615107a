"""A sweep from Python: two searches of one domain, with one and with two workers per trial.

    python examples/sweep_script.py
    ray job submit --working-dir . -- python examples/sweep_script.py --storage /shared/runs
    ray submit cluster.yaml examples/sweep_script.py --storage /shared/runs

A script can change any value of the YAML file and gets every result as an object. Run it again to
continue where it stopped.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from sweeps.config.load import load_tree, parse_config
from sweeps.execution import sweep

CONFIG = Path(str(files("sweeps"))) / "configs" / "mini.yaml"


def main() -> None:
    """Run both studies and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="runs", help="a folder that all nodes share")
    parser.add_argument("--trials", type=int, default=4)
    arguments = parser.parse_args()
    for workers in (1, 2):
        tree = load_tree(CONFIG, [f"storage={arguments.storage}", f"name=script-{workers}"])
        tree["domains"] = {"math": tree["domains"]["math"]}
        tree["search"]["trials"] = arguments.trials
        tree["resources"] |= {"workers": workers, "concurrency": 1}
        best = sweep.run(parse_config(tree)).domains["math"].best
        found = "no trial finished" if best is None else f"{best.score:.3f} with {best.mask_ratio}"
        print(f"{workers} workers per trial: {found}")


if __name__ == "__main__":
    main()
