"""Fisher: saliency of activation channels (Theis et al., 2018; BlockSwap, Turner et al., ICLR 2020)."""

from __future__ import annotations

from torch import Tensor


def fisher(channel_energy: Tensor, weights: int) -> float:
    r"""One layer's :math:`\sum_c F_c\,|W_c|`, :math:`F_c = \frac12 \mathrm{mean}_n (\sum_p a\,\partial)^2`.

    Each channel's value is spread over all weights of that channel, as the published codes do.

    Args:
        channel_energy: :math:`\mathrm{mean}_n(\sum_p a\,\partial)^2`, one number a channel, p the positions of the
            feature map (of the sequence, for layers of a transformer).
        weights: number of weights of the layer.

    Example:
        >>> import torch
        >>> fisher(torch.tensor([2.0, 4.0]), weights=6)
        9.0
    """
    return 0.5 * float(channel_energy.sum()) * weights / len(channel_energy)
