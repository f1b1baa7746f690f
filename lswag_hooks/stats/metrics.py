"""The statistics as torchmetrics metrics, for samples that come in parts or in several processes.

Apart from the functions, because torchmetrics takes seconds to import and most scores need none of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lswag_hooks.stats.moments import Moments, merge_moments, moments_of
from lswag_hooks.stats.patterns import count_distinct, pack, unpack


class GradientMoments(Metric):
    r"""Streaming :class:`Moments` of per-sample gradients as a torchmetrics metric.

    ``update`` takes per-sample gradients of shape (samples, \*weights); ``compute`` returns :class:`Moments`. Sums are
    merged exactly across updates and across processes.

    Args:
        signed: also keep the moments of the signed gradient.
        **kwargs: for :class:`torchmetrics.Metric`.

    Example:
        >>> metric = GradientMoments()
        >>> metric.update(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> metric.update(torch.tensor([[-5.0, -2.0]]))
        >>> metric.compute().mean_abs.tolist()
        [3.0, 2.0]
    """

    full_state_update = False
    samples: list[Tensor] | Tensor
    mean_abs: list[Tensor] | Tensor
    m2_abs: list[Tensor] | Tensor
    mean: list[Tensor] | Tensor
    m2: list[Tensor] | Tensor

    def __init__(self, signed: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.signed = signed
        # one entry a process after a sync ("cat" over a leading axis of one); never more than one before it
        self.add_state("samples", default=[], dist_reduce_fx="cat")
        for name in ("mean_abs", "m2_abs", "mean", "m2"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, gradients: Tensor) -> None:
        """Fold in per-sample gradients, shape (samples, *weights)."""
        self.merge(moments_of(gradients, self.signed, partial=True))

    def merge(self, moments: Moments) -> None:
        """Fold in moments that were computed elsewhere."""
        if self.samples:
            moments = merge_moments(self._merged(), moments)
        device = moments.mean_abs.device
        self.samples = [torch.tensor([moments.samples], device=device)]
        self.mean_abs, self.m2_abs = [moments.mean_abs[None]], [moments.m2_abs[None]]
        if moments.mean is not None and moments.m2 is not None:
            self.mean, self.m2 = [moments.mean[None]], [moments.m2[None]]
        self._update_count = max(1, self._update_count)
        self._computed = None

    def _merged(self) -> Moments:
        def column(state: list[Tensor] | Tensor) -> Sequence[Tensor]:
            return torch.cat(state) if isinstance(state, list) and state else state  # type: ignore[return-value]

        counts = [int(n) for n in column(self.samples)]
        signed = len(self.mean) > 0
        parts = [
            Moments(n, column(self.mean_abs)[i], column(self.m2_abs)[i])
            if not signed
            else Moments(n, column(self.mean_abs)[i], column(self.m2_abs)[i], column(self.mean)[i], column(self.m2)[i])
            for i, n in enumerate(counts)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = merge_moments(total, part)
        return total

    def compute(self) -> Moments:
        """Moments over everything seen, in every process."""
        return self._merged()


class ActivationPatterns(Metric):
    """Distinct activation patterns of a layer over any number of samples, as a torchmetrics metric.

    ``update`` takes outputs of shape (samples, units): further samples lengthen the patterns of the same units.
    Across processes the patterns are joined, so that two processes with half a batch each count what one would.

    Example:
        >>> metric = ActivationPatterns()
        >>> metric.update(torch.tensor([[1.0, 1.0, -1.0]]))
        >>> metric.update(torch.tensor([[1.0, -1.0, -1.0]]))
        >>> metric.compute()
        tensor(3)
    """

    full_state_update = False
    packed: list[Tensor] | Tensor
    samples: list[Tensor] | Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("packed", default=[], dist_reduce_fx="cat")
        self.add_state("samples", default=[], dist_reduce_fx="cat")

    def update(self, outputs: Tensor) -> None:
        """Fold in the outputs of further samples, shape (samples, units)."""
        self.extend(pack(outputs), len(outputs))

    def extend(self, packed: Tensor, samples: int) -> None:
        """Fold in codes packed elsewhere, shape (bytes, units)."""
        assert isinstance(self.packed, list) and isinstance(self.samples, list)
        self.packed.append(packed)
        self.samples.append(torch.tensor([samples], device=packed.device))
        self._update_count = max(1, self._update_count)
        self._computed = None

    def compute(self) -> Tensor:
        """Number of distinct patterns, exactly."""
        return torch.tensor(count_distinct(self.joined()), device="cpu")

    def joined(self) -> Tensor:
        """All packed codes, shape (bytes, units)."""
        return torch.cat(self.packed) if isinstance(self.packed, list) else self.packed

    def codes(self) -> Tensor:
        """All codes, boolean, shape (samples, units)."""
        samples = torch.cat(self.samples) if isinstance(self.samples, list) else self.samples
        pieces = self.joined().split([-(-int(n) // 8) for n in samples])
        return torch.cat([unpack(piece, int(n)) for piece, n in zip(pieces, samples, strict=True)])
