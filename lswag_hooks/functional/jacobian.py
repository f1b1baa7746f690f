"""Scores of the input Jacobian: JacobCov (Mellor et al., 2020) and EPE-NAS (Lopes et al., ICANN 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

MANY_CLASSES = 100
EPSILON = 1e-5


def correlation(rows: Tensor) -> Tensor:
    """Correlations between rows, in double precision on the CPU; NaN for a row that is constant.

    Example:
        >>> correlation(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])).round().tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    rows = rows.cpu().double()
    rows = rows - rows.mean(1, keepdim=True)
    products = rows @ rows.T
    deviations = products.diagonal().sqrt()
    return (products / deviations[:, None] / deviations[None, :]).clamp(-1, 1)


def jacov(rows: Tensor, k: float = EPSILON) -> float:
    r"""JacobCov, :math:`-\sum_i \ln(v_i + k) + 1/(v_i + k)`, v the eigenvalues of the rows' correlations.

    Args:
        rows: gradient of the summed outputs with respect to each sample, shape (samples, input size).
        k: keeps zero eigenvalues finite; two equal samples cost about 1/k.

    Returns:
        The score, higher is better; NaN where a row is constant.

    Example:
        >>> round(jacov(torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])), 3)  # uncorrelated
        -2.0
    """
    found = correlation(rows)
    if not bool(torch.isfinite(found).all()):
        return float("nan")
    values = torch.linalg.eigvalsh((found + found.T) / 2) + k
    return -float((values.log() + 1 / values).sum())


def epe_nas(rows: Tensor, labels: Tensor, classes: int, k: float = EPSILON) -> float:
    r"""EPE-NAS, from :math:`E_c = \sum_{i,j \in c} \ln(|\rho_{ij}| + k)` of each class c.

    Up to 100 classes :math:`\sum_c |E_c|`; with more, each :math:`E_c` is divided by the class's samples, and the score
    is :math:`\sum_{c,c'} |E_c - E_{c'}|` over the number of classes seen.

    Args:
        rows: as for :func:`jacov`.
        labels: class numbers, shape (samples,).
        classes: outputs of the network.
        k: keeps the logarithm finite.

    Example:
        >>> rows = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
        >>> round(epe_nas(rows, torch.tensor([0, 0]), classes=10), 3)  # 2 ln k, of the two off the diagonal
        23.026
    """
    found, labels = correlation(rows), labels.cpu()
    terms = []
    for label in labels.unique():
        own = labels == label
        term = (found[own][:, own].abs() + k).log().sum()
        terms.append(term / own.sum() if classes > MANY_CLASSES else term)
    together = torch.stack(terms)
    if classes > MANY_CLASSES:
        return float((together[:, None] - together[None, :]).abs().sum()) / len(together)
    return float(together.abs().sum())
