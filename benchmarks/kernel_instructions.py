"""How many instructions Triton's kernels are compiled to; needs no GPU.

    python benchmarks/kernel_instructions.py [--arch 90]

Instructions of PTX in the whole kernel: one program's straight line, its loop counted once.
"""

from __future__ import annotations

import argparse

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gmt_core import kernels

WIDE, NUMBER = "*i64", "i32"
TABLE = {"addresses": WIDE, "sizes": WIDE, "owners": WIDE, "starts": WIDE}


def instructions(kernel: triton.JITFunction, arch: int, **types: str | int | object) -> int:
    """Of a kernel whose arguments have these types, or these constant values."""
    constants = {name: value for name, value in types.items() if name.isupper()}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
    return sum(line.strip().endswith(";") and "." in line for line in made.asm["ptx"].splitlines())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, default=90)
    arch = parser.parse_args().arch
    pooled = {**TABLE, "rows": WIDE, "SPAN": kernels._SPAN, "TILE": kernels._TILE}
    print("| kernel | 16 bits | 32 bits |\n|---|---|---|")
    counting = {**pooled, "prefixes": WIDE, "histogram": WIDE, "most": NUMBER, "top": NUMBER}
    gathering = {**pooled, "bounds": "*i32", "rooms": WIDE, "counts": WIDE, "most": NUMBER}
    masking = {**pooled, "limits": "*i32", "counts": WIDE, "most": NUMBER, "COUNT": False}
    sampling = {**pooled, "steps": WIDE, "firsts": WIDE, "sample": "*i32", "most": NUMBER}
    found = {
        "count, one digit": (kernels._count, {**counting, "low": NUMBER, "BINS": 256}),
        "gather, one pass": (kernels._gather, {**gathering, "infinity": NUMBER}),
        "sample": (kernels._sample, {**sampling, "TILE": kernels._FEW}),
        "mask": (kernels._mask, masking),
    }
    for name, (kernel, types) in found.items():
        row = []
        for integer, pointer in ((triton.language.int16, "*i16"), (triton.language.int32, "*i32")):
            own = {**types, "INTEGER": integer, "inside": pointer, "ALIGNED": True}
            kept = {key: value for key, value in own.items() if key in kernel.arg_names}
            row.append(instructions(kernel, arch, **kept))
        print(f"| {name} | {row[0]:,} | {row[1]:,} |")


if __name__ == "__main__":
    main()
