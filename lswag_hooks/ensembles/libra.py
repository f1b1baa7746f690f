"""LIBRA: which proxies to merge for a benchmark, by correlation, information gain and bias."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lswag_hooks.benchmark import Benchmark
from lswag_hooks.ensembles.aggregation import RULES, as_columns, merge_ranks
from lswag_hooks.ensembles.evidence import Directions, Evidence, gather, without
from lswag_hooks.ensembles.tables import read_csv, read_given
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.readers import NO_VALUE
from lswag_hooks.wording import jsonable

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

FORMAT = 1  # of the JSON files


@dataclass(eq=False)
class Libra:
    r"""LIBRA, as its paper defines it (Casarin et al., CVPR 2025, arXiv 2505.07300, Sec. 3.2 and App. E, G).

    From proxies and accuracies :math:`y` of the same networks it chooses up to three proxies:

    1. :math:`z_1` has the highest Spearman correlation with accuracy;
    2. :math:`z_2`, of the others within ``tolerance`` of that correlation, has the lowest information gain
       :math:`IG(y; z_2 | z_1) = H(y|z_1) - H(y|z_1, z_2)`;
    3. :math:`z_3`, of those that remain, has the bias closest to the accuracy's own, a bias being the correlation with
       the size of the networks.

    They are merged by :func:`~lswag_hooks.merge_ranks`. With nothing within the tolerance it is :math:`z_1` alone; with
    one proxy, or no sizes, there is no third. What it saw, left out and chose is in :meth:`report`. Fitted once, it
    ranks other networks of the same space without accuracies.

    Args:
        tolerance: distance from the best correlation. The paper: 0.1, and 0.2 where nothing would be within it. None:
            any.
        bins: ``"sturges"`` (the paper), ``"nbsz"`` or ``"quantile"``: how values become discrete for entropies.
        bias: correlation with the size, ``"pearson_of_ranks"`` (the paper's text) or ``"pearson"`` of the values
            (what its Tab. 6 shows).
        merge: ``"log"``, ``"rank"`` or ``"zscore"``. The paper does not say which.
        size: the column of sizes; it is a proxy, too. None: there is none.
        outliers: proxies that outliers crowd into one bin are binned by ``"quantile"``, which is said, or are kept
            (``"keep"``), or refused (``"refuse"``).
        higher_is_better: False for proxies that are better when lower; ``"fit"``: as the sign of the correlation says.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> accuracy = rng.normal(size=200)
        >>> scores = {name: accuracy + spread * rng.normal(size=200) for name, spread in
        ...           {"zico": 0.7, "params": 0.75, "nwot": 0.8, "plain": 9.0}.items()}
        >>> libra = Libra(tolerance=0.1).fit(scores, accuracy)
        >>> libra.selected
        ('params', 'zico', 'nwot')
        >>> libra.rank({"zico": [1.0, 3.0, 2.0], "params": [1.0, 3.0, 2.0], "nwot": [1.0, 3.0, 2.0]}).to_dict()
        {1: 1.0, 2: 2.0, 0: 3.0}
    """

    tolerance: float | None = 0.1
    bins: str = "sturges"
    bias: str = "pearson_of_ranks"
    merge: str = "log"
    size: str | None = "params"
    outliers: str = "quantile"
    higher_is_better: Directions = None
    seen: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    kinds: ClassVar[dict[str, type[Libra]]] = {}

    def __init_subclass__(cls) -> None:
        Libra.kinds[cls.__name__] = cls

    def __post_init__(self) -> None:
        if self.merge not in RULES:
            near = near_matches(str(self.merge), RULES)
            raise InputError(f"merge={self.merge!r}:{near} there are {', '.join(map(repr, RULES))}.")
        if self.tolerance is not None and not 0 <= self.tolerance < float("inf"):
            raise InputError(f"tolerance={self.tolerance}: give a distance between correlations, such as 0.1.")

    def fit(
        self,
        scores: pd.DataFrame | Mapping[str, Any] | str | Path | Benchmark,
        accuracy: pd.Series | Sequence[float] | str | None = None,
        task: str | None = None,
    ) -> Self:
        """Choose the proxies.

        Networks that lack a value, proxies that are constant or mostly missing, and marks such as -1e8 are left out and
        reported: see :func:`~lswag_hooks.ensembles.evidence.gather`.

        Args:
            scores: a table or dict of columns, one a proxy; the path of a CSV file; or a benchmark.
            accuracy: one value a network, or the name of a column of ``scores``; None with a benchmark.
            task: of a benchmark with several.

        Returns:
            This object.

        Raises:
            InputError: fewer than 10 networks are left, or nothing to choose from, or an argument makes no sense.
        """
        given = read_given(scores, accuracy, task)
        evidence = gather(
            given,
            size=self.size,
            bins=self.bins,
            bias=self.bias,
            outliers=self.outliers,
            higher_is_better=self.higher_is_better,
        )
        weights, steps = self._choose(evidence)
        near = evidence.within(self.tolerance)
        self.seen = {
            "source": given.source,
            "networks": len(evidence.scores),
            "weights": weights,
            "steps": steps,
            "notes": list(evidence.notes),
            "accuracy_bias": evidence.accuracy_bias,
            "proxies": {
                name: {
                    "higher_is_better": evidence.higher_is_better[name],
                    "correlation": evidence.correlations[name],
                    "within": name in near or name == evidence.best,
                    "gain": None if name == evidence.best else evidence.gain(name, evidence.best),
                    "bias": evidence.biases.get(name),
                    "bins": evidence.rule_of(name),
                    "marks": sorted(value for value in evidence.marks.get(name, ()) if math.isfinite(value)),
                }
                for name in sorted(evidence.proxies, key=lambda name: -evidence.correlations[name])
            },
        }
        return self

    @property
    def selected(self) -> tuple[str, ...]:
        """The proxies, in the order in which they were chosen."""
        return tuple(self._fitted()["weights"])

    @property
    def weights(self) -> dict[str, float]:
        """How much each of them counts."""
        return dict(self._fitted()["weights"])

    def score(self, scores: pd.DataFrame | Mapping[str, Any] | str | Path) -> pd.Series:
        """The merged score of candidates, higher is better, in their order; NaN where a chosen proxy has no value.

        It says something about these candidates together only, because it is made of ranks among them.

        Args:
            scores: a table, a dict of columns, or the path of a CSV file; other columns than the chosen do not matter.

        Raises:
            InputError: a chosen proxy is not there, or it was not fitted.
        """
        table = read_csv(scores, []) if isinstance(scores, (str, Path)) else scores
        missing = [name for name in self.selected if name not in table]
        if missing:
            there = ", ".join(map(str, table)) or "none"
            raise InputError(f"the scores lack {', '.join(missing)}, which this LIBRA merges; their columns: {there}.")
        seen = {name: self.seen["proxies"][name] for name in self.selected}
        columns = as_columns({name: table[name] for name in seen})
        columns = without(columns, {name: [NO_VALUE, *row["marks"]] for name, row in seen.items()}, [])
        up = {name: bool(row["higher_is_better"]) for name, row in seen.items()}
        return merge_ranks(columns, self.merge, up, self.weights)

    def rank(self, scores: pd.DataFrame | Mapping[str, Any] | str | Path) -> pd.Series:
        """Put candidates in order, best first: rank 1 is the best, equals share the mean of their ranks.

        Candidates that lack the value of a chosen proxy come last, with NaN.

        Args:
            scores: see :meth:`score`.
        """
        ranks = self.score(scores).rank(ascending=False).rename("rank")
        return ranks.sort_values(kind="stable", na_position="last")

    def report(self) -> str:
        """Everything that led to the choice, in lines: what was left out, the proxies, and each step."""
        seen = self._fitted()
        told = ", ".join(f"{key} {value}" for key, value in seen["source"].items())
        lines = [f"{type(self).__name__} fitted to {seen['networks']} networks" + (f" ({told})" if told else "")]
        lines += [f"  {note}" for note in seen["notes"]]
        width = max(map(len, seen["proxies"]))
        lines.append(f"  {'proxy':<{width + 2}}  Spearman  gain given first     bias")
        for name, row in seen["proxies"].items():
            gain, bias = (
                "-" if value is None else f"{value:.3f}" + mark
                for value, mark in ((row["gain"], "q" if row["bins"] != self.bins else ""), (row["bias"], ""))
            )
            sign = "" if row["higher_is_better"] else "-"
            member = "*" if name in seen["weights"] else " "
            lines.append(f"{member} {sign + name:<{width + 2}}  {row['correlation']:8.3f}  {gain:>16}  {bias:>7}")
        if seen["accuracy_bias"] is not None and seen["accuracy_bias"] == seen["accuracy_bias"]:
            lines.append(f"  {'accuracy':<{width + 2}}  {'':8}  {'':>16}  {seen['accuracy_bias']:7.3f}")
        lines += seen["steps"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON, from which :meth:`from_dict` makes an equal object."""
        from lswag_hooks import __version__

        settings = {one.name: getattr(self, one.name) for one in fields(self) if one.init}
        made = jsonable(
            {
                "format": FORMAT,
                "kind": type(self).__name__,
                "version": self._fitted().get("version", __version__),
                "settings": settings,
                "seen": {key: value for key, value in self.seen.items() if key != "version"},
            }
        )
        assert isinstance(made, dict)
        return made

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Libra:
        """The object that :meth:`to_dict` described, of its own class.

        Raises:
            InputError: it describes none.
        """
        try:
            made = Libra.kinds[data["kind"]](**data["settings"])
            seen = {**data["seen"], "version": data["version"]}
            if data["format"] > FORMAT or not seen["weights"] or not {*seen["weights"]} <= {*seen["proxies"]}:
                raise ValueError(f"format {data['format']}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"this describes no fitted LIBRA, or one of a newer version ({error!r}): use what save() wrote."
            ) from None
        made.seen = seen
        return made

    def save(self, path: str | Path) -> Path:
        """Write it to a JSON file."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Libra:
        """Read what :meth:`save` wrote, or one that comes with this package: see :func:`~lswag_hooks.list_fitted`.

        Raises:
            InputError: there is none of that name, or the file is none.

        Example:
            >>> Libra.load("nasbench201/cifar10").selected
            ('jacov', 'epe_nas', 'nwot')
        """
        from lswag_hooks.ensembles.fitted import read_fitted

        try:
            data = json.loads(read_fitted(name_or_path))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name_or_path} is no JSON file ({error}).") from None
        if not isinstance(data, dict):
            raise InputError(f"{name_or_path} holds no fitted LIBRA: use what save() wrote.")
        return cls.from_dict(data)

    def _choose(self, evidence: Evidence) -> tuple[dict[str, float], list[str]]:
        """Members with their weights, and what led to them."""
        first = evidence.best
        steps = [f"1. {first}: the highest correlation with accuracy, {evidence.correlations[first]:.3f}"]
        near = evidence.within(self.tolerance)
        distance = "any distance" if self.tolerance is None else f"{self.tolerance:g}"
        if not near:
            steps.append(f"2. none within {distance} of that: {first} alone")
            if self.tolerance is not None and self.tolerance < 0.2:
                steps.append("   (the paper takes a tolerance of 0.2 where that happens)")
            return {first: 1.0}, steps
        gains = {name: evidence.gain(name, first) for name in near}
        second = min(near, key=lambda name: gains[name])
        rest = [name for name in near if name != second]
        told = f", the lowest information gain of {len(near)}" if rest else ", the only one"
        steps.append(f"2. {second}: within {distance} of it{told}, {gains[second]:.3f} bits")
        alike, needed = evidence.alike(first, second), evidence.needed(first, second)
        verdict = "has" if evidence.correlations[second] > needed else "does not have"
        steps.append(
            f"   they correlate {alike:.2f}: the two gain over {first} alone only if {second} has more than about "
            f"{needed:.3f}, which it {verdict}"
        )
        if not rest:
            steps.append("3. none is left for a third")
            return {first: 1.0, second: 1.0}, steps
        if evidence.size is None:
            steps.append("3. no third, because without sizes there are no biases")
            return {first: 1.0, second: 1.0}, steps
        own = evidence.accuracy_bias
        third = min(rest, key=lambda name: abs(evidence.biases[name] - own))
        steps.append(
            f"3. {third}: of the other {len(rest)} the bias closest to the accuracy's {own:.3f} "
            f"(correlation with {evidence.size}), {evidence.biases[third]:.3f}"
        )
        return {first: 1.0, second: 1.0, third: 1.0}, steps

    def _fitted(self) -> dict[str, Any]:
        if not self.seen:
            raise InputError(f"this {type(self).__name__} is not fitted: call fit(scores, accuracy), or load one.")
        return self.seen


Libra.kinds["Libra"] = Libra
