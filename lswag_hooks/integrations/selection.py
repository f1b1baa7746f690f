"""Selection of the k best candidates, in scikit-learn's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lswag_hooks.batch import Batch
from lswag_hooks.candidates import Candidates, listed_candidates
from lswag_hooks.errors import InputError
from lswag_hooks.proxies import Proxy
from lswag_hooks.ranking import rank


class SelectKBest:
    """Keeps the k candidates that score best, as :class:`sklearn.feature_selection.SelectKBest` does features.

    Candidates are what columns are there, the batch takes the place of ``y``. What is kept comes in the order in which
    it was given; :func:`~lswag_hooks.prefilter` gives the same, best first. scikit-learn is not imported.

    Args:
        k: how many to keep, or ``"all"``.
        proxies: as for :func:`~lswag_hooks.rank`; the first one decides.
        seeds: as for :func:`~lswag_hooks.rank`.
        options: other arguments of :func:`~lswag_hooks.rank`.

    Attributes:
        ranking_: the :class:`~lswag_hooks.Ranking`.
        scores_: the first proxy's score of each candidate, in their order; NaN where there is none.

    Raises:
        InputError: ``k`` makes no sense (in ``fit``), or ``fit`` was not called; or as for :func:`~lswag_hooks.rank`.

    Example:
        >>> from torch import nn
        >>> def net(width):
        ...     return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        >>> candidates = {f"width {width}": net(width) for width in (4, 64, 8, 32)}
        >>> selector = SelectKBest(k=2, progress=False).fit(candidates, Batch.builtin("digits", (1, 8, 8), samples=16))
        >>> selector.get_support()
        array([False,  True, False,  True])
        >>> list(selector.transform(candidates))
        ['width 64', 'width 32']
    """

    def __init__(
        self,
        k: int | str = 10,
        proxies: str | Proxy | Sequence[str | Proxy] = "lswag",
        seeds: int | Sequence[int] = 1,
        **options: Any,
    ) -> None:
        self.k = k
        self.proxies = proxies
        self.seeds = seeds
        self.options = options

    def fit(self, candidates: Candidates, batch: Batch | tuple[Tensor, Tensor]) -> SelectKBest:
        """Score candidates on a batch.

        One that cannot be scored is not kept, and its reason is in ``ranking_``.
        """
        if self.k != "all" and (isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1):
            raise InputError(f"k={self.k!r}: give how many to keep, 1 or more, or 'all'.")
        given = candidates if isinstance(candidates, Mapping) else [one.spec for one in listed_candidates(candidates)]
        names = [one.name for one in listed_candidates(given)]
        ranking = rank(given, batch, self.proxies, self.seeds, **self.options)
        if ranking.interrupted:
            raise KeyboardInterrupt  # the best of a part are not the best
        scored = {row.name: next(iter(row.scores.values())) for row in ranking.rows}
        kept = set(ranking.top(len(names) if self.k == "all" else int(self.k)))
        self.ranking_ = ranking
        self.scores_ = np.array([scored[name] for name in names])
        self._support = np.array([name in kept for name in names])
        return self

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Which candidates are kept: a mask in their order, or with ``indices=True`` their positions."""
        support = self._fitted()
        return np.flatnonzero(support) if indices else support.copy()

    def transform(self, candidates: Any) -> Any:
        """Those that are kept: a dictionary of a dictionary, else a list, of as many candidates as were scored."""
        support = self._fitted()
        if len(candidates) != len(support):
            raise InputError(f"{len(candidates)} candidates, and {len(support)} were scored: give the same as to fit.")
        if isinstance(candidates, Mapping):
            return {name: spec for (name, spec), kept in zip(candidates.items(), support, strict=True) if kept}
        return [one for one, kept in zip(candidates, support, strict=True) if kept]

    def fit_transform(self, candidates: Any, batch: Batch | tuple[Tensor, Tensor]) -> Any:
        """Score candidates and give those that are kept."""
        return self.fit(candidates, batch).transform(candidates)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments it was made with, as :func:`sklearn.base.clone` asks for them."""
        return {"k": self.k, "proxies": self.proxies, "seeds": self.seeds, **self.options}

    def set_params(self, **params: Any) -> SelectKBest:
        """Change arguments."""
        for name, value in params.items():
            if name in ("k", "proxies", "seeds"):
                setattr(self, name, value)
            else:
                self.options[name] = value
        return self

    def _fitted(self) -> np.ndarray:
        if not hasattr(self, "_support"):
            raise InputError("nothing was scored yet: call fit(candidates, batch) first.")
        return self._support
