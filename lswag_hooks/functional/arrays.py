"""What the scores of one layer are computed from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lswag_hooks.stats import Moments


@dataclass(frozen=True)
class LayerArrays:
    """Arrays of one weight layer, all in the same order of elements.

    Attributes:
        weight: the weight, shape (rows, columns).
        moments: of the per-sample gradients of the per-sample loss, same shape; None if not asked for.
        gradient: gradient of the mean loss over the batch, same shape; None if not asked for.
        channel_energy: mean over samples of the squared sum over positions of activation times gradient of the mean
            loss, one number an output channel; None if not asked for or not defined.
        bias: moments of the bias, where biases count.
    """

    weight: Tensor
    moments: Moments | None = None
    gradient: Tensor | None = None
    channel_energy: Tensor | None = None
    bias: Moments | None = None
