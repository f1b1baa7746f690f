"""GradSign: on how many weights the samples agree (Zhang and Jia, ICLR 2022)."""

from __future__ import annotations

from torch import Tensor

from lswag_hooks.devices import double


def gradsign(signs: Tensor) -> float:
    r"""One layer's :math:`\sum_k |\sum_i \mathrm{sign}\, g_{ik}|`.

    Args:
        signs: sum over samples of the signs of every weight's gradient.

    Example:
        >>> import torch
        >>> gradsign(torch.tensor([-2.0, 0.0, 1.0]))
        3.0
    """
    return float(double(signs).abs().sum())
