r"""Theorem 1: what the gradients of a linear regressor at its start say about its loss after a step (App. A).

Samples :math:`x_i` of norm 1, labels :math:`y_i`, loss :math:`L_i(a) = (a^\top x_i - y_i)^2 / 2`, gradients
:math:`g_i = (a^\top x_i - y_i)\, x_i` with mean :math:`\mu_j` and deviation :math:`\sigma_j` over the M samples. After
the step :math:`\hat a = a - \eta \sum_i g_i`, for any :math:`\eta`,

.. math:: \sum_i L_i(\hat a) \le \frac M2 \sum_j \left[\sigma_j^2 + (M\eta - 1)^2 \mu_j^2\right].

Proof: :math:`g_i(\hat a) = g_i - \eta\, x_i x_i^\top s` with :math:`s = \sum_i g_i = M\mu`, and
:math:`\|g_i\|^2 = 2 L_i` as :math:`\|x_i\| = 1`, so
:math:`2 \sum_i L_i(\hat a) = \sum_i \|g_i\|^2 - 2\eta \|s\|^2 + \eta^2 \sum_i (x_i^\top s)^2`, where the last
sum is at most :math:`M \|s\|^2`. ZiCo's Theorem 3.1 lacks that M, which is the correction of the L-SWAG paper; the
formula itself was lost in the text at hand, and is derived here anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

INITS = ("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal")


@dataclass(frozen=True)
class Runs:
    """Repeats from different starts at one learning rate; every array has the shape (repeats,).

    Attributes:
        mean: :math:`\\sum_j \\mu_j^2` at the start.
        variance: :math:`\\sum_j \\sigma_j^2` at the start.
        bound: of the theorem.
        step: total loss after the theorem's step.
        epoch: total loss after an epoch of steps of one sample each, which the theorem does not speak of.
        inits: name of each start's scheme.
    """

    rate: float
    mean: np.ndarray
    variance: np.ndarray
    bound: np.ndarray
    step: np.ndarray
    epoch: np.ndarray
    inits: np.ndarray

    def held(self, losses: np.ndarray) -> float:
        """Share of the repeats whose loss is within the bound; rounding of 1e-9 of it is allowed."""
        return float((losses <= self.bound * (1 + 1e-9)).mean())


def normalised(images: np.ndarray) -> np.ndarray:
    """Images as rows of norm 1, float64, shape (samples, pixels); images that are black are left out."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    return np.asarray(rows[norms > 0] / norms[norms > 0, None])


def start(name: str, inputs: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of a linear layer of one output, as PyTorch's scheme of that name draws them (gain 1; ReLU's: sqrt 2)."""
    scheme, shape = name.split("_")
    deviation = np.sqrt(2 / inputs) if scheme == "kaiming" else np.sqrt(2 / (inputs + 1))
    if shape == "normal":
        return rng.normal(0, deviation, inputs)
    reach = np.sqrt(3) * deviation
    return rng.uniform(-reach, reach, inputs)


def losses(weights: np.ndarray, samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Total loss of each row of weights, shape (repeats,)."""
    return np.asarray(0.5 * ((weights @ samples.T - labels) ** 2).sum(axis=1))


def experiment(samples: np.ndarray, labels: np.ndarray, rate: float, repeats: int, seed: int = 0) -> Runs:
    """Run from ``repeats`` starts, each by a scheme drawn among four.

    Args:
        samples: of norm 1, shape (M, inputs).
        labels: shape (M,).
        rate: the learning rate.
        repeats: number of starts.
        seed: of the starts.
    """
    rng = np.random.default_rng(seed)
    inits = rng.choice(INITS, repeats)
    weights = np.stack([start(str(name), samples.shape[1], rng) for name in inits])
    number = len(samples)
    residuals = weights @ samples.T - labels  # (repeats, M); a gradient is a residual times its sample
    means = residuals @ samples / number
    squares = (residuals**2) @ (samples**2) / number
    mean, variance = (means**2).sum(axis=1), (squares - means**2).clip(0).sum(axis=1)
    bound = number / 2 * (variance + (number * rate - 1) ** 2 * mean)
    step = losses(weights - rate * number * means, samples, labels)
    moving = weights.copy()
    for sample, label in zip(samples, labels, strict=True):
        moving -= rate * np.outer(moving @ sample - label, sample)
    return Runs(rate, mean, variance, bound, step, losses(moving, samples, labels), inits)
