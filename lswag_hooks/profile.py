"""Everything that was seen of a network, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lswag_hooks.functional.lswag import percentile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass
class WeightRow:
    r"""One weight layer.

    Attributes:
        name: path in the model.
        kind: ``conv``, ``matmul``.
        shape: of the weight.
        percentile: tenth of the depth, 0 to 9.
        calls: products it enters.
        trainability: Lambda, if gradients were collected.
        mean_gradient: mean over weights of the mean absolute per-sample gradient.
        mean_deviation: mean over weights of its deviation over samples.
        sensitivity: how much a random relative change of the weights changes one sample's loss:
            :math:`\|w\|\,\|\sigma\|/\sqrt n`, with the deviations over samples of the n weights.
        largest_share: share of one weight in the sum of inverse deviations.
        alive: weights with a non-zero variance.
        zero: weights whose gradient is exactly zero for every sample.
        fed_by: index of the activation layer that feeds it.
        terms: each proxy's term.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int
    percentile: int
    calls: int = 1
    trainability: float | None = None
    mean_gradient: float | None = None
    mean_deviation: float | None = None
    sensitivity: float | None = None
    largest_share: float | None = None
    alive: int | None = None
    zero: int | None = None
    fed_by: int | None = None
    terms: dict[str, float] = field(default_factory=dict)


@dataclass
class ActivationRow:
    """One activation layer: expressivity is its number of distinct sample-wise patterns."""

    name: str
    function: str
    units: int
    percentile: int
    expressivity: float | None = None


@dataclass
class LayerProfile:
    """Weight layers and activation layers of a network in call order, with what was measured of each.

    Example:
        >>> profile = LayerProfile([WeightRow("fc", "matmul", (2, 3), 6, 0, trainability=1.5)], [])
        >>> profile.to_dict()["weights"][0]["trainability"]
        1.5
    """

    weights: list[WeightRow]
    activations: list[ActivationRow]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        return {
            "weights": [asdict(row) for row in self.weights],
            "activations": [asdict(row) for row in self.activations],
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row a layer, weights first; proxies' terms as columns of their own."""
        import pandas as pd

        rows = []
        for weight in self.weights:
            row = {"layer": weight.name, "role": "weight", **asdict(weight)}
            row.update(row.pop("terms"))
            row.pop("name")
            rows.append(row)
        for activation in self.activations:
            row = {"layer": activation.name, "role": "activation", **asdict(activation)}
            row["kind"] = row.pop("function")
            row["size"] = row.pop("units")
            row.pop("name")
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self, interval: tuple[int, int] | None = None) -> Figure:
        """A picture of what was measured of each layer.

        Args:
            interval: first and last tenth of the depth that counted: shaded.

        Raises:
            InputError: matplotlib is missing.
        """
        from lswag_hooks.report.plots import layers

        return layers(self, interval)

    def __str__(self) -> str:
        """A short table in plain text."""
        lines = [f"{'layer':44} {'tenth':>5} {'size':>10} {'trainability':>12} {'deviation':>10} {'expressivity':>12}"]
        for row in self.weights:
            shown = "" if row.trainability is None else f"{row.trainability:12.4f}"
            deviation = "" if row.mean_deviation is None else f"{row.mean_deviation:10.2e}"
            lines.append(f"{row.name[-44:]:44} {row.percentile:5d} {row.size:10d} {shown:>12} {deviation:>10}")
        for unit in self.activations:
            shown = "" if unit.expressivity is None else f"{unit.expressivity:12.0f}"
            lines.append(
                f"{(unit.name or unit.function)[-44:]:44} {unit.percentile:5d} {unit.units:10d} "
                f"{'':>12} {'':>10} {shown:>12}"
            )
        return "\n".join(lines)


def percentiles(count: int) -> list[int]:
    """Percentile of each of ``count`` layers."""
    return [percentile(index, count) for index in range(count)]
