"""What the scores of one layer are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lswag_hooks.functional.lswag import inverse_deviations, mean_over_deviation
from lswag_hooks.stats import Moments


@dataclass(frozen=True)
class LayerArrays:
    """Arrays of some weights of a layer (all of them, or the rows of one tile), in one order of elements.

    Attributes:
        weight: the weights, shape (rows, columns); None if no score needs them.
        moments: of the per-sample gradients of the per-sample loss, same shape; None if not asked for.
        gradient: gradient of the mean loss over the batch, same shape; None if not asked for.
    """

    weight: Tensor | None = None
    moments: Moments | None = None
    gradient: Tensor | None = None

    @cached_property
    def inverse(self) -> tuple[float, float]:
        """Sum and largest of the inverse deviations, which several readers want."""
        assert self.moments is not None
        return inverse_deviations(self.moments)

    @cached_property
    def relative(self) -> float:
        """Sum of mean over deviation of the absolute gradient, which several readers want."""
        assert self.moments is not None
        return mean_over_deviation(self.moments)


@dataclass(frozen=True)
class LayerWhole:
    """What is known of a layer once all its weights were seen.

    Attributes:
        size: number of weights.
        channel_energy: mean over samples of the squared sum over positions of activation times gradient of the mean
            loss, one number an output channel; None if not asked for or not defined.
        bias: moments of the bias, where biases count and the layer has one.
    """

    size: int
    channel_energy: Tensor | None = None
    bias: Moments | None = None
