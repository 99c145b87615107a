"""The tests of EvalPlus (Liu et al. 2023, arXiv 2305.01210) without numpy.

The released tests import numpy for `np.allclose` alone, and a sandbox is smaller without it.
"""

from __future__ import annotations

_IMPORT = "import numpy as np\n"
# numpy's formula, with its broadcasting of a number over a list; others than numbers raise.
_STAND_IN = """\
class np:
    ndarray = ()

    @staticmethod
    def allclose(out, exp, rtol, atol):
        lists = (list, tuple)
        if isinstance(out, lists) and isinstance(exp, lists):
            if len(out) != len(exp) and 1 not in (len(out), len(exp)):
                raise ValueError("shapes differ")
            size = max(len(out), len(exp)) if out and exp else 0
            out, exp = (list(x) * size if len(x) == 1 else x for x in (out, exp))
            return all(np.allclose(a, b, rtol, atol) for a, b in zip(out, exp))
        if isinstance(out, lists):
            return all(np.allclose(a, exp, rtol, atol) for a in out)
        if isinstance(exp, lists):
            return all(np.allclose(out, b, rtol, atol) for b in exp)
        return out == exp or abs(out - exp) <= atol + rtol * abs(exp) < float("inf")
"""


def without_numpy(test: str) -> str:
    """`test` with a stand-in for the one function of numpy that it uses."""
    return test.replace(_IMPORT, _STAND_IN)
