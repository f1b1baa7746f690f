"""NASGraph: average degree of the graph of channels (Huang et al., AutoML 2024 workshop)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def average_degree(edges: Iterable[tuple[int, int, Tensor]]) -> float:
    """Twice the number of edges over the number of channels that have one; NaN without any.

    Args:
        edges: parent layer, child layer, and which channels are joined; boolean, shape (channels, channels).

    Example:
        >>> import torch
        >>> average_degree([(0, 1, torch.tensor([[True, True], [False, False]]))])  # two edges, three channels
        1.3333333333333333
    """
    count = 0
    nodes: set[tuple[int, int]] = set()
    for parent, child, joined in edges:
        count += int(joined.sum())
        nodes.update((parent, index) for index in joined.any(1).nonzero().flatten().tolist())
        nodes.update((child, index) for index in joined.any(0).nonzero().flatten().tolist())
    return 2 * count / len(nodes) if nodes else float("nan")
