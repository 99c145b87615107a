"""Steps that the gradient scaler of float16 training takes back."""

from __future__ import annotations

from torch.optim import Optimizer


def skipped_by_scaler(optimizer: Optimizer) -> bool:
    """Whether this step will change nothing, because torch.amp.GradScaler found an infinity.

    Only of fused optimizers: the scaler calls their `step` all the same, with its verdict as an
    attribute. It does not even call that of others.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
