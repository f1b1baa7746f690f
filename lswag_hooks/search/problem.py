"""What is searched: a space, limits that every candidate keeps, and what makes one candidate better than another."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lswag_hooks.ensembles import Libra, merge_ranks
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.images import Size
from lswag_hooks.proxies import Proxy, resolve_proxies
from lswag_hooks.spaces import Cost, Space

if TYPE_CHECKING:
    from lswag_hooks.measuring import Measured

TRIES = 200  # draws before the nearest of them is led towards the limits
PATIENCE = 300  # mutations on that way without coming nearer
COSTS = ("params", "flops", "macs")
LATENCY = "latency"
OBJECTIVES = ("score", *COSTS, LATENCY)


@dataclass(frozen=True)
class Limits:
    """What a candidate may cost; None: as it likes.

    Args:
        min_params: fewest parameters.
        max_params: most parameters.
        min_flops: fewest flops, as the space counts them.
        max_flops: most flops.

    Raises:
        InputError: a limit is below 1, or a pair contradicts itself.

    Example:
        >>> Limits(max_params=10).excess(Cost(15, 0, 0))
        0.5
    """

    min_params: int | None = None
    max_params: int | None = None
    min_flops: int | None = None
    max_flops: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value >= 1:
                raise InputError(f"{name}={value}: give a number of at least 1, or None.")
        for what in ("params", "flops"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and low > high:
                raise InputError(f"min_{what}={low:,} is more than max_{what}={high:,}: nothing can be both.")

    def excess(self, cost: Cost) -> float:
        """By how much of each limit a cost is beyond it, in all; 0 within them."""
        total = 0.0
        for what in ("params", "flops"):
            value, low, high = getattr(cost, what), getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            total += max(0.0, 1 - value / low) if low else 0.0
            total += max(0.0, value / high - 1) if high else 0.0
        return total

    def told(self) -> str:
        """The limits in words."""
        words = {"min": "at least", "max": "at most"}
        parts = []
        for name, value in vars(self).items():
            if value is not None:
                bound, what = name.split("_")
                parts.append(f"{words[bound]} {value:,} {'parameters' if what == 'params' else what}")
        return " and ".join(parts)


@dataclass
class Problem:
    """A space with limits: draws candidates that keep them, and never one that is known.

    Limits are kept by construction: what is beyond them is drawn again, and never scored.

    Attributes:
        space: to draw from.
        limits: to keep.
        task: of the space, for costs.
        num_classes: for costs; None: the task's own.
        image_size: for costs; None: the task's own.

    Example:
        >>> from lswag_hooks.spaces import get_space
        >>> problem = Problem(get_space("autoformer_small"), Limits(max_params=20_000_000))
        >>> problem.cost(problem.draw(np.random.default_rng(0), set())).params <= 20_000_000
        True
    """

    space: Space
    limits: Limits = field(default_factory=Limits)
    task: str | None = None
    num_classes: int | None = None
    image_size: Size | None = None
    _costs: dict[str, Cost] = field(default_factory=dict, repr=False)

    def cost(self, architecture: str) -> Cost:
        """Parameters and flops of an architecture, counted once."""
        if architecture not in self._costs:
            self._costs[architecture] = self.space.cost(
                architecture, self.num_classes, task=self.task, image_size=self.image_size
            )
        return self._costs[architecture]

    def keeps(self, architecture: str) -> bool:
        """Whether an architecture keeps the limits."""
        return self.excess(architecture) == 0

    def excess(self, architecture: str) -> float:
        """By how much an architecture is beyond the limits; costs are counted only where there are limits."""
        return 0.0 if self.limits == Limits() else self.limits.excess(self.cost(architecture))

    def draw(self, rng: np.random.Generator, known: Collection[str]) -> str | None:
        """An architecture drawn at random that keeps the limits and is not known; None where none was found.

        Where the limits leave so little that no draw keeps them, the nearest one is led there by mutations that each
        come nearer.
        """
        nearest, distance = None, math.inf
        for _ in range(TRIES):
            architecture = self.space.sample(rng)
            excess = self.excess(architecture)
            if excess == 0 and architecture not in known:
                return architecture
            if 0 < excess < distance:
                nearest, distance = architecture, excess
        if nearest is None:  # all that was drawn keeps the limits, and is known
            return None
        idle = 0
        while idle < PATIENCE:
            idle += 1
            architecture = self.space.mutate(nearest, rng)
            excess = self.excess(architecture)
            if excess == 0 and architecture not in known:
                return architecture
            if 0 < excess < distance:
                nearest, distance, idle = architecture, excess, 0
        return None

    def fitting(self, attempt: Callable[[], str | None], number: int, tries: int, known: Collection[str]) -> list[str]:
        """Up to a number of different architectures out of so many attempts that keep the limits and are not known."""
        found: dict[str, None] = {}
        for _ in range(tries):
            if len(found) == number:
                break
            architecture = attempt()
            if architecture is not None and architecture not in known and self.keeps(architecture):
                found[architecture] = None
        return list(found)

    def check(self, seed: int = 0) -> None:
        """Refuse limits that nothing keeps.

        Raises:
            InputError: no architecture was found that keeps them; says what the nearest one costs.
        """
        rng = np.random.default_rng(seed)
        if self.limits == Limits() or self.draw(rng, ()) is not None:
            return
        nearest = min((self.space.sample(rng) for _ in range(TRIES)), key=self.excess)
        while (better := min(self.space.neighbours(nearest), key=self.excess)) and (
            self.excess(better) < self.excess(nearest)
        ):
            nearest = better
        if self.keeps(nearest):
            return
        cost = self.cost(nearest)
        bounds = {name.split("_")[1] for name, value in vars(self.limits).items() if value is not None}
        told = " and ".join(
            f"{getattr(cost, what):,} {'parameters' if what == 'params' else what}" for what in COSTS if what in bounds
        )
        raise InputError(
            f"no architecture of {self.space.name} was found with {self.limits.told()}: the nearest has {told}, "
            f"{nearest!r}."
        )


@dataclass(frozen=True)
class Objective:
    """What makes a candidate better: its score, or its score against its costs.

    With one proxy the score is that proxy's value. With several, or a fitted LIBRA, it is a merger of their ranks
    *among the candidates seen so far*, so that it changes while the search goes on: :func:`~lswag_hooks.merge_ranks`.

    Attributes:
        proxies: that are computed.
        names: ``"score"`` first; ``"params"``, ``"flops"``, ``"macs"`` or ``"latency"`` to be small as well.
        libra: whose choice of proxies, directions and weights it is.
        merge: rule of :func:`~lswag_hooks.merge_ranks` for several proxies.
    """

    proxies: tuple[Proxy, ...]
    names: tuple[str, ...] = ("score",)
    libra: Libra | None = None
    merge: str = "log"

    @property
    def merged(self) -> bool:
        """Whether the score is made of ranks, and depends on the other candidates."""
        return self.libra is not None or len(self.proxies) > 1

    def fitness(self, measured: Sequence[Measured]) -> np.ndarray:
        """Scores of candidates, higher is better, shape (candidates,); NaN where there is none, or it is ruled out."""
        columns = {
            proxy.key: [math.nan if one.ruled_out else one.scores[proxy.key] for one in measured]
            for proxy in self.proxies
        }
        if not measured:
            return np.empty(0)
        if self.libra is not None:
            return np.asarray(self.libra.score(columns), dtype=np.float64)
        if self.merged:
            return np.asarray(merge_ranks(columns, self.merge, self.directions()), dtype=np.float64)
        (only,) = self.proxies
        values = np.array(columns[only.key], dtype=np.float64)
        return values if only.higher_is_better else -values

    def values(self, measured: Sequence[Measured], costs: Iterable[Cost]) -> np.ndarray:
        """All objectives, higher is better, shape (candidates, objectives)."""
        columns = [self.fitness(measured)]
        listed = list(costs)
        for name in self.names[1:]:
            if name == LATENCY:
                column = [one.scores[LATENCY] for one in measured]
            else:
                column = [getattr(cost, name) for cost in listed]
            columns.append(-np.array(column, dtype=np.float64))
        return np.stack(columns, axis=1)

    def directions(self) -> dict[str, bool]:
        """Whether a proxy is better when higher, by label."""
        if self.libra is not None:
            return {
                proxy.key: bool(self.libra.seen["proxies"][proxy.key]["higher_is_better"]) for proxy in self.proxies
            }
        return {proxy.key: proxy.higher_is_better for proxy in self.proxies}

    def weights(self) -> dict[str, float]:
        """How much each proxy counts, by label."""
        return {proxy.key: 1.0 for proxy in self.proxies} if self.libra is None else self.libra.weights

    def settings(self) -> dict[str, Any]:
        """What it is, for the record."""
        return {
            "objectives": list(self.names),
            "proxies": {proxy.key: {"proxy": proxy.name, **proxy.settings()} for proxy in self.proxies},
            "merge": (self.libra.merge if self.libra else self.merge) if self.merged else None,
            "libra": None if self.libra is None else self.libra.weights,
        }


def objective(
    proxies: str | Proxy | Libra | Sequence[str | Proxy], objectives: str | Sequence[str] = "score", merge: str = "log"
) -> Objective:
    """An objective from names.

    Raises:
        InputError: an unknown proxy or objective, or a LIBRA whose proxies this package does not compute.

    Example:
        >>> objective("zico,swap", "score,params").names
        ('score', 'params')
    """
    from lswag_hooks.ensembles.aggregation import RULES

    given = objectives.split(",") if isinstance(objectives, str) else objectives
    names = tuple(name.strip() for name in given)
    for name in names:
        if name not in OBJECTIVES:
            raise InputError(f"objective {name!r}:{near_matches(name, OBJECTIVES)} there are {', '.join(OBJECTIVES)}.")
    if names[:1] != ("score",) or len(set(names)) < len(names):
        raise InputError(f"objectives={','.join(names)}: 'score' first, then others that are to be small, each once.")
    if merge not in RULES:
        raise InputError(f"merge={merge!r}:{near_matches(str(merge), RULES)} there are {', '.join(map(repr, RULES))}.")
    if isinstance(proxies, Libra):
        try:
            wanted = resolve_proxies(list(proxies.selected))
        except InputError as error:
            raise InputError(f"this LIBRA merges a proxy that is not computed here: {error}") from None
        return Objective(tuple(wanted), names, proxies, merge)
    return Objective(tuple(resolve_proxies(proxies)), names, None, merge)


def check_budget(**numbers: int) -> Mapping[str, int]:
    """Refuse numbers below 1.

    Raises:
        InputError: one is.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
            raise InputError(f"{name}={number!r}: give one or more.")
    return numbers
