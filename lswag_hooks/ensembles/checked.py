"""LIBRA whose members are each tried out: a proxy joins only if it helps on networks held out for that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lswag_hooks.correlation import pearson
from lswag_hooks.ensembles.aggregation import RULES
from lswag_hooks.ensembles.evidence import Directions, Evidence
from lswag_hooks.ensembles.libra import Libra
from lswag_hooks.errors import InputError


@dataclass(eq=False)
class LibraChecked(Libra):
    r"""LIBRA with a check in place of its rules for the second and third member; of this package, not of the paper.

    The paper adds proxies that say the same as the first one (low information gain) and lean the same way (bias). But
    if two proxies have correlations :math:`\rho_1 \ge \rho_2` to accuracy and :math:`c` to each other, the sum of
    ranks correlates about as :math:`(\rho_1 + \rho_2) / \sqrt{2 (1 + c)}`, which beats :math:`\rho_1` only if

    .. math:: \rho_2 / \rho_1 > \sqrt{2 (1 + c)} - 1 .

    The more alike they are, the less a weaker one may fall short: what the rule looks for is what makes it lose. So
    here, after :math:`z_1`, at each step that proxy joins, with that of the ``steps`` as its weight, which raises the
    correlation of the merged ranking most, averaged over folds of the networks; and only if the mean gain over folds
    exceeds ``margin`` of its standard errors. A near-duplicate gains nothing and stays out.

    Args:
        tolerance: only proxies within this distance of the best correlation may join; None: all.
        bins: for the report's information gains.
        bias: for the report's biases.
        merge: ``"log"``, ``"rank"`` or ``"zscore"``.
        size: for the report's biases.
        outliers: see :class:`Libra`; matters to the report only.
        higher_is_better: ``"fit"``: the sign of each proxy's correlation decides; or as for :class:`Libra`.
        steps: weights that a joining proxy may have; the first one has weight 1.
        margin: how many standard errors of the gain over folds it must exceed.
        folds: number of folds, drawn twice.
        seed: of the folds.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> luck, accuracy = rng.normal(size=(2, 300))
        >>> scores = {"zico": accuracy + luck, "copy": accuracy + luck + 0.1 * rng.normal(size=300),
        ...           "nwot": accuracy + rng.normal(size=300), "noise": rng.normal(size=300)}
        >>> sorted(LibraChecked(size=None).fit(scores, accuracy).selected)
        ['nwot', 'zico']
    """

    tolerance: float | None = None
    higher_is_better: Directions = "fit"
    steps: tuple[float, ...] = (1.0, 0.5, 0.25)
    margin: float = 1.0
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps = tuple(float(step) for step in self.steps)
        if not self.steps or min(self.steps) <= 0:
            raise InputError(f"steps={self.steps}: give weights above 0.")
        if self.folds < 2 or self.margin < 0:
            raise InputError(f"folds={self.folds}, margin={self.margin}: give 2 folds or more, and a margin from 0 on.")

    def _choose(self, evidence: Evidence) -> tuple[dict[str, float], list[str]]:
        first, truth = evidence.best, evidence.accuracy.to_numpy()
        pool = evidence.within(self.tolerance)
        columns = {name: RULES[self.merge](evidence.scores[name].to_numpy()) for name in (first, *pool)}
        parts = [_Part(members, RULES["rank"](truth[members])) for members in self._parts(len(truth))]
        merged, weights = columns[first], {first: 1.0}
        now = _by_part(merged, parts)
        told = [f"1. {first}: the highest correlation with accuracy, {evidence.correlations[first]:.3f}"]
        while True:
            tries = []
            for name in pool:
                for step in self.steps if name not in weights else ():
                    gains = _by_part(merged + step * columns[name], parts) - now
                    error = gains.std(ddof=1) / np.sqrt(len(gains))
                    if gains.mean() > max(1e-9, self.margin * error):
                        tries.append((gains.mean(), error, name, step))
            if not tries:
                break
            gain, error, name, step = max(tries, key=lambda one: one[0])
            merged, weights[name] = merged + step * columns[name], step
            now = _by_part(merged, parts)
            told.append(
                f"{len(weights)}. {name}, weight {step:g}: gains {gain:.3f} (standard error {error:.3f}) over "
                f"{len(parts)} held-out parts"
            )
        left = len(pool) - len(weights) + 1
        told.append(f"no other of {left} gains more than {self.margin:g} standard errors" if left else "none is left")
        return weights, told

    def _parts(self, networks: int) -> list[np.ndarray]:
        """Folds of the networks, of two draws; fewer where a fold would have less than five."""
        folds = max(2, min(self.folds, networks // 5))
        rng = np.random.default_rng(self.seed)
        return [order[fold::folds] for order in (rng.permutation(networks) for _ in range(2)) for fold in range(folds)]


@dataclass(frozen=True)
class _Part:
    """A part of the networks, with the ranks of their accuracies, which every trial is compared with."""

    members: np.ndarray
    truth: np.ndarray

    def correlation(self, merged: np.ndarray) -> float:
        """Spearman; 0 where all are equal, which puts nothing in order."""
        return float(np.nan_to_num(pearson(RULES["rank"](merged[self.members]), self.truth)))


def _by_part(merged: np.ndarray, parts: list[_Part]) -> np.ndarray:
    return np.array([part.correlation(merged) for part in parts])
