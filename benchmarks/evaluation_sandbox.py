"""How fast generated programs are judged: HumanEval's references, 20 samples of each.

    python benchmarks/evaluation_sandbox.py HumanEval.jsonl --out benchmarks/records/DATE_...

Each sample is made different by a comment, so that none is answered from another. Half of them
are wrong, as a model's would be: their body returns nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

from evaluators.benchmarks import build
from evaluators.benchmarks.program import program
from evaluators.sandbox import resolve_level, run_programs


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--level", default=None)
    options = parser.parse_args()
    level = resolve_level(options.level)
    benchmark = build("humaneval", preset="full", sandbox=level)
    items = benchmark.load(options.file, "all")
    programs = [
        program(item, f"{item.reference if n % 2 else '    return None'}\n# sample {n}\n")
        for item in items
        for n in range(options.samples)
    ]
    start = time.perf_counter()
    results = run_programs(
        programs, level=level, timeout=5.0, memory_mb=512, workers=options.workers
    )
    seconds = time.perf_counter() - start
    passed = sum(result.passed for result in results)
    record = {
        "python": platform.python_version(),
        "level": level,
        "workers": options.workers,
        "programs": len(programs),
        "passed": passed,
        "expected": len(items) * (options.samples // 2),
        "seconds": seconds,
        "milliseconds_per_program": 1000 * seconds / len(programs),
        "loadavg": os.getloadavg(),
    }
    print(json.dumps(record, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"sandbox_{level}.json"
    (options.out / name).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
