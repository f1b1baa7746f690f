"""LIBRA whose members are tried out: a proxy joins only as long as that helps on networks that did not choose it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from lswag_hooks.ensembles.aggregation import RULES
from lswag_hooks.ensembles.evidence import Directions, Evidence
from lswag_hooks.ensembles.libra import Libra
from lswag_hooks.errors import InputError

ROUNDING = 1e-9


@dataclass(eq=False)
class LibraChecked(Libra):
    r"""LIBRA with a check in place of its rules for the second and third member; of this package, not of the paper.

    The paper adds proxies that say the same as the first one (low information gain) and lean the same way (bias). But
    if two proxies have correlations :math:`\rho_1 \ge \rho_2` to accuracy and :math:`c` to each other, the sum of
    ranks correlates about as :math:`(\rho_1 + \rho_2) / \sqrt{2 (1 + c)}`, which beats :math:`\rho_1` only if

    .. math:: \rho_2 / \rho_1 > \sqrt{2 (1 + c)} - 1 .

    The more alike they are, the less a weaker one may fall short: what the rule looks for is what makes it lose. So
    here the networks are split in two at random. On one half the best proxy starts, and at each step that proxy joins,
    or gets more weight, which raises the correlation of the merged ranking most; as long as the correlation on the
    *other* half, which has no part in the choice, rises too. This is done with each half of several splits, and the
    weights are averaged, so that a proxy that was best by luck does not decide alone. One that joined seldom stays out.

    Args:
        tolerance: only proxies within this distance of the best correlation may join; None: all.
        bins: for the report's information gains.
        bias: for the report's biases.
        merge: ``"log"``, ``"rank"`` or ``"zscore"``.
        size: for the report's biases.
        outliers: see :class:`Libra`; matters to the report only.
        higher_is_better: ``"fit"``: the sign of each proxy's correlation decides; or as for :class:`Libra`.
        steps: how much weight may be added at a time; the first one starts with 1.
        halvings: how many times the networks are split in two; each half chooses once.
        share: of these choices a proxy must be in.
        seed: of the splits.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> luck, accuracy = rng.normal(size=(2, 300))
        >>> scores = {"zico": accuracy + luck, "copy": accuracy + luck + 0.5 * rng.normal(size=300),
        ...           "nwot": accuracy + rng.normal(size=300), "noise": rng.normal(size=300)}
        >>> sorted(LibraChecked(size=None).fit(scores, accuracy).selected)
        ['nwot', 'zico']
    """

    tolerance: float | None = None
    higher_is_better: Directions = "fit"
    steps: tuple[float, ...] = (0.5, 0.25)
    halvings: int = 5
    share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps = tuple(float(step) for step in self.steps)
        if not self.steps or min(self.steps) <= 0:
            raise InputError(f"steps={self.steps}: give weights above 0.")
        if self.halvings < 1 or not 0 <= self.share <= 1:
            raise InputError(f"halvings={self.halvings}, share={self.share}: give 1 or more, and a share from 0 to 1.")

    def _choose(self, evidence: Evidence) -> tuple[dict[str, float], list[str]]:
        names = [evidence.best, *evidence.within(self.tolerance)]
        columns = np.array([RULES[self.merge](evidence.scores[name].to_numpy()) for name in names])
        truth = evidence.accuracy.to_numpy()
        halves = self._halves(len(truth))
        climbed = [_climb(columns, truth, half, other, self.steps) for half, other in halves]
        chosen = np.array([weights for weights, _ in climbed])
        times = (chosen > 0).sum(axis=0)
        joined = (times > 0) & (times >= self.share * len(halves))
        weights = np.where(joined, chosen.mean(axis=0), 0)
        if not joined.any():  # every half chose others
            joined[0], weights[0] = True, 1
        weights /= weights.max()
        order = [index for index in np.argsort(-weights, kind="stable") if joined[index]]
        told = [
            f"{place}. {names[index]}, weight {weights[index]:.2g}: chosen by {times[index]} of {len(halves)} halves"
            for place, index in enumerate(order, 1)
        ]
        seldom = [f"{names[index]} {times[index]}" for index in np.flatnonzero((times > 0) & ~joined)]
        if seldom:
            told.append(f"left out, because too few halves chose them: {', '.join(seldom)}")
        gains = [gain for _, gain in climbed]
        told.append(
            f"a half's choice gains {np.mean(gains):.3f} on the other half over the proxy it starts with "
            f"({min(gains):.3f} to {max(gains):.3f})"
        )
        return {names[index]: float(f"{weights[index]:.2g}") for index in order}, told

    def _halves(self, networks: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Splits in two, each both ways round."""
        rng = np.random.default_rng(self.seed)
        splits = [np.split(rng.permutation(networks), [networks // 2]) for _ in range(self.halvings)]
        return [pair for one, other in splits for pair in ((one, other), (other, one))]


def _climb(
    columns: np.ndarray, truth: np.ndarray, half: np.ndarray, other: np.ndarray, steps: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Weights that one half chooses, of sum 1, and what they gain on the other half over the proxy that starts.

    Args:
        columns: shape (proxies, networks), as they are to be added.
        truth: accuracies.
        half: the networks that choose.
        other: the networks that say when it is enough.
        steps: what may be added to a weight.
    """
    here, there = columns[:, half], columns[:, other]
    truth_here, truth_there = stats.rankdata(truth[half]), stats.rankdata(truth[other])
    alone = _correlations(here, truth_here)
    weights = np.zeros(len(columns))
    weights[alone.argmax()] = 1
    best, start = alone.max(), _correlations(weights @ there, truth_there)
    reached = start
    while True:
        tries = np.multiply.outer(steps, here) + weights @ here  # (steps, proxies, networks)
        found = _correlations(tries, truth_here)
        step, index = np.unravel_index(found.argmax(), found.shape)
        more = weights.copy()
        more[index] += steps[step]
        new = _correlations(more @ there, truth_there)
        if found.max() <= best + ROUNDING or new <= reached + ROUNDING:
            return weights / weights.sum(), float(reached - start)
        weights, best, reached = more, found.max(), new


def _correlations(merged: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Spearman along the last axis with accuracies that are ranks already; 0 where all are equal: nothing in order."""
    ranks, truth = stats.rankdata(merged, axis=-1), truth - truth.mean()
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=-1) * (truth @ truth))
    found: np.ndarray = np.divide(ranks @ truth, norm, out=np.zeros(norm.shape), where=norm > 0)
    return found
