"""Which candidates no other is better than in everything, and the order of NSGA-II.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE TEC 2002.
"""

from __future__ import annotations

import numpy as np


def pareto_front(values: np.ndarray) -> np.ndarray:
    """Positions of the rows that no other row dominates, in their order.

    A row dominates another that it equals or exceeds everywhere, and exceeds somewhere. Rows with NaN are in no front;
    equal rows are in it together.

    Args:
        values: shape (candidates, objectives), higher is better.

    Example:
        >>> pareto_front(np.array([[1, 1], [2, 0], [0, 2], [0, 0], [1, 1]])).tolist()
        [0, 1, 2, 4]
    """
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    # sorted so that whatever dominates a row stands before it, and one of those that do is in the front
    order = rows[np.lexsort(-values[rows].T[::-1])]
    front: list[int] = []
    kept = np.empty((len(rows), values.shape[1]))
    for row in order:
        others = kept[: len(front)]
        at_least, more = (others >= values[row]).all(axis=1), (others > values[row]).any(axis=1)
        if not (at_least & more).any():
            kept[len(front)] = values[row]
            front.append(int(row))
    return np.array(sorted(front), dtype=np.int64)


def crowding(values: np.ndarray) -> np.ndarray:
    """How far the neighbours of each row of a front are apart, in all objectives; infinite at its ends.

    Args:
        values: shape (candidates, objectives), of one front.

    Example:
        >>> crowding(np.array([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0]])).tolist()
        [inf, 2.0, inf]
    """
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        distance[order[[0, -1]]] = np.inf
        width = column[order[-1]] - column[order[0]]
        if width > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / width
    return distance


def best_first(values: np.ndarray, number: int) -> list[int]:
    """Positions of the best rows: front by front, and the least crowded of a front first.

    With one objective it is the highest first; equal rows keep their order. Rows with NaN are left out.

    Args:
        values: shape (candidates, objectives), higher is better.
        number: how many at most.

    Example:
        >>> best_first(np.array([[1.0], [3.0], [np.nan], [2.0]]), 2)
        [1, 3]
    """
    left = np.flatnonzero(np.isfinite(values).all(axis=1))
    if values.shape[1] == 1:
        return [int(row) for row in left[np.argsort(-values[left, 0], kind="stable")][:number]]
    chosen: list[int] = []
    while len(chosen) < number and len(left):
        front = left[pareto_front(values[left])]
        apart = np.argsort(-crowding(values[front]), kind="stable")
        chosen += [int(row) for row in front[apart]]
        left = np.setdiff1d(left, front)
    return chosen[:number]
