"""What was seen of a network and what was not, by name and reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass
class Coverage:
    """What the hooks covered.

    Attributes:
        weights: elements of weights of layers whose per-sample gradients were had.
        weights_total: elements of all weights of layers.
        uncovered: weights that were not, with the reason.
        tables: parameters in matrix products that are tables (positions, tokens), not layers.
        other_parameters: number of parameters that are no layer weight (norms, biases, embeddings, tables, tokens).
        activations: activation calls that were coded, by function.
        unplaced: activations that were seen but could not be assigned to samples, with the reason.
        shared_activations: activations that no sample enters (of position networks), which have no sample-wise pattern.
        gates: calls of gates and clamps, which are not counted.
        reused: layers called more than once, with the number of calls.
        derived: layers whose weight is computed from parameters.
        frozen: layer weights that the model itself had frozen; they are counted.
        coupled: BatchNorm layers that used batch statistics: gradients are then shares of a coupled one.
        opaque: scripted modules, which accept no hooks.
        dead: layers none of whose weights has a variance; they contribute nothing.
        zero_gradient_share: share of weights whose gradient is exactly zero for every sample.
        largest_share: layer -> share of one weight in its sum of inverse deviations, where above one half.
    """

    weights: int = 0
    weights_total: int = 0
    uncovered: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    other_parameters: int = 0
    activations: Counter[str] = field(default_factory=Counter)
    unplaced: dict[str, str] = field(default_factory=dict)
    shared_activations: list[str] = field(default_factory=list)
    gates: Counter[str] = field(default_factory=Counter)
    reused: dict[str, int] = field(default_factory=dict)
    derived: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    coupled: int = 0
    opaque: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    zero_gradient_share: float | None = None
    largest_share: dict[str, float] = field(default_factory=dict)

    @property
    def weight_share(self) -> float:
        """Share of layer weights covered."""
        return self.weights / self.weights_total if self.weights_total else 0.0

    @property
    def activation_share(self) -> float:
        """Share of activation calls coded."""
        seen = sum(self.activations.values())
        return seen / (seen + len(self.unplaced)) if seen or self.unplaced else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        counts = {"activations": dict(self.activations), "gates": dict(self.gates)}  # asdict breaks a Counter
        shares = {"weight_share": self.weight_share, "activation_share": self.activation_share}
        return {**asdict(replace(self, activations=Counter(), gates=Counter())), **counts, **shares}

    def __str__(self) -> str:
        """One line, then what is missing."""
        lines = [
            f"weights {self.weight_share:.1%} of {self.weights_total:,}, activations {self.activation_share:.1%} of "
            f"{sum(self.activations.values()) + len(self.unplaced)} calls"
        ]
        lines += [f"  not covered: {name}: {reason}" for name, reason in self.uncovered.items()]
        lines += [f"  not placed: {name}: {reason}" for name, reason in self.unplaced.items()]
        return "\n".join(lines)
