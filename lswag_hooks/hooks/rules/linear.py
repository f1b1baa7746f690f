"""Matrix products: the gradient of one sample is a product of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LinearGradient:
    r"""Per-sample gradients of a weight in :math:`y = x W^\top`: :math:`g_i = \sum_t d_{it} x_{it}^\top`.

    Args:
        left: gradients of the outputs, shape (samples, positions, rows).
        right: inputs, shape (samples, positions, columns).
        shape: shape of the weight, of rows x columns elements in this order.
    """

    left: Tensor
    right: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        self.samples, _, self.rows = self.left.shape
        self.columns = self.right.shape[2]
        self.row_group = self.rows
        self.device_bytes = self.left.element_size()

    def block(self, samples: slice, rows: slice) -> Tensor:
        left, right = self.left[samples, :, rows], self.right[samples]
        if left.shape[1] == 1:  # one position: an outer product, cheaper elementwise
            return left.transpose(1, 2) * right
        return torch.bmm(left.transpose(1, 2), right)

    def arrange(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.rows, self.columns)

    def restore(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(*matrix.shape[:-2], *self.shape)
