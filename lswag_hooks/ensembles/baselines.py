"""What LIBRA is compared with in the paper (Tab. 4, Sec. 4.3): other ways to choose two or three proxies.

Each takes an :class:`~lswag_hooks.ensembles.evidence.Evidence` and returns names of proxies, to be merged like LIBRA's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from lswag_hooks.ensembles.evidence import Evidence
from lswag_hooks.errors import InputError
from lswag_hooks.wording import named

GRADIENT_FREE = frozenset(
    {"params", "flops", "depth", "log_size", "l2_norm", "nwot", "swap", "reg_swap", "zen", "m_size", "NASWOT"}
)
"""Proxies that need no backward pass, by the names of this package and of published tables; the others need one."""


def random_pair(evidence: Evidence, seed: int = 0) -> tuple[str, ...]:
    """Two proxies at random (Tab. 4a, "2 random")."""
    return _draw(evidence.proxies, 2, seed)


def best_plus_random(evidence: Evidence, seed: int = 0) -> tuple[str, ...]:
    """The best proxy and one of the others at random."""
    others = [name for name in evidence.proxies if name != evidence.best]
    return (evidence.best, *_draw(others, 1, seed))


def best_gradient_free(evidence: Evidence, free: Collection[str] = GRADIENT_FREE) -> tuple[str, ...]:
    """The two best of those that need no gradient (Tab. 4a, "2 free")."""
    return _best([name for name in evidence.proxies if name in free], evidence, 2)


def best_gradient_based(evidence: Evidence, free: Collection[str] = GRADIENT_FREE) -> tuple[str, ...]:
    """The two best of those that need gradients (Tab. 4a, "2 based")."""
    return _best([name for name in evidence.proxies if name not in free], evidence, 2)


def best_of_each(evidence: Evidence, free: Collection[str] = GRADIENT_FREE) -> tuple[str, ...]:
    """The best without and the best with gradients (Tab. 4a, "free + based")."""
    kinds = [[name for name in evidence.proxies if (name in free) == wanted] for wanted in (True, False)]
    return tuple(name for kind in kinds if kind for name in _best(kind, evidence, 1))


def least_gain(evidence: Evidence, tolerance: float | None = 0.1) -> tuple[str, ...]:
    """The best proxy and the one of the lowest information gain: LIBRA without a third member (Tab. 4b, "w/o")."""
    near = evidence.within(tolerance)
    gains = {name: evidence.gain(name, evidence.best) for name in near}
    return (evidence.best, min(near, key=lambda name: gains[name])) if near else (evidence.best,)


def most_gain(evidence: Evidence, tolerance: float | None = 0.1) -> tuple[str, ...]:
    """The best proxy and the one of the *highest* information gain (Tab. 4a), which NAS-Bench-Suite-Zero would take."""
    near = evidence.within(tolerance)
    gains = {name: evidence.gain(name, evidence.best) for name in near}
    return (evidence.best, max(near, key=lambda name: gains[name])) if near else (evidence.best,)


def random_third(evidence: Evidence, tolerance: float | None = 0.1, seed: int = 0) -> tuple[str, ...]:
    """LIBRA's first two, and one of all others at random (Tab. 4b, "w/ random")."""
    pair = least_gain(evidence, tolerance)
    return (*pair, *_draw([name for name in evidence.proxies if name not in pair], 1, seed))


def least_bias(evidence: Evidence, tolerance: float | None = 0.1) -> tuple[str, ...]:
    """LIBRA's first two, and of the rest within the tolerance that with the bias closest to zero (Tab. 4b).

    NAS-Bench-Suite-Zero takes a bias for a fault to be removed; LIBRA matches that of the accuracies.
    """
    pair = least_gain(evidence, tolerance)
    rest = [name for name in evidence.within(tolerance) if name not in pair]
    if not rest or not evidence.biases:
        return pair
    return (*pair, min(rest, key=lambda name: abs(evidence.biases[name])))


def everything(evidence: Evidence) -> tuple[str, ...]:
    """All proxies."""
    return tuple(evidence.proxies)


def all_within(evidence: Evidence, tolerance: float | None = 0.1) -> tuple[str, ...]:
    """The best proxy and all within the tolerance of it."""
    return (evidence.best, *evidence.within(tolerance))


BASELINES: dict[str, Callable[[Evidence], tuple[str, ...]]] = {
    "2 gradient-free": best_gradient_free,
    "2 gradient-based": best_gradient_based,
    "1 free + 1 based": best_of_each,
    "2 random": random_pair,
    "best + random": best_plus_random,
    "best + highest gain": most_gain,
    "best + lowest gain": least_gain,
    "... + random third": random_third,
    "... + least bias": least_bias,
}
"""The paper's Tab. 4, (a) then (b), by the names of its columns."""


def _best(names: list[str], evidence: Evidence, wanted: int) -> tuple[str, ...]:
    if not names:
        raise InputError(f"none of {named(evidence.proxies)} is of that kind: say by free= which need no gradient.")
    return tuple(sorted(names, key=lambda name: -evidence.correlations[name])[:wanted])


def _draw(names: list[str], wanted: int, seed: int) -> tuple[str, ...]:
    drawn = np.random.default_rng(seed).permutation(len(names))[:wanted]
    return tuple(names[index] for index in drawn)
