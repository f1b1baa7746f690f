"""Undo zero initialisations on a copy: norm gains, layer scales and heads that start at exactly zero.

Many networks begin as near identities: the last gain of each residual block, its layer scale or the head is zero, and
with it the gradient of all that lies behind. A score of such a network as built says little (66 of 293 real models have
an exactly zero gradient on more than half of their weights).
"""

from __future__ import annotations

import copy
import math
import re

import torch
from torch import nn

from lswag_hooks.errors import UnsupportedError
from lswag_hooks.rng import seeded

_SCALES = re.compile(r"gamma|scale|gain|alpha|lambda|\bls\d*\b")


def _is_scale(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    vector = sum(size > 1 for size in parameter.shape) <= 1
    leaf = name.rpartition(".")[2].lower()
    norm = "norm" in type(module).__name__.lower() and leaf == "weight"
    return vector and (norm or _SCALES.search(leaf.replace("_", " ")) is not None)


def wake(model: nn.Module, seed: int = 0) -> tuple[nn.Module, list[str]]:
    """A copy of a model in which nothing starts at exactly zero that would stop gradients.

    Zero norm gains and layer scales become one; zero weights of convolutions and linear layers are drawn anew.

    Args:
        model: the model; it is not touched.
        seed: of what is drawn anew.

    Returns:
        The copy, and what was changed in words.

    Raises:
        UnsupportedError: the model cannot be copied.

    Example:
        >>> head = nn.Linear(4, 2)
        >>> _ = nn.init.zeros_(head.weight)
        >>> awake, changes = wake(nn.Sequential(head))
        >>> changes, bool(awake[0].weight.any()), bool(head.weight.any())
        (['0.weight: drawn anew'], True, False)
    """
    try:
        awake = copy.deepcopy(model)
    except Exception as error:
        raise UnsupportedError(f"init='wake' works on a copy, and this model cannot be copied: {error}") from error
    changes = []
    modules = dict(awake.named_modules())
    with torch.no_grad(), seeded(seed):
        for name, parameter in awake.named_parameters():
            if not parameter.is_floating_point() or parameter.numel() == 0 or bool(parameter.any()):
                continue
            if _is_scale(name, parameter, modules[name.rpartition(".")[0]]):
                parameter.fill_(1.0)
                changes.append(f"{name}: set to one")
            elif parameter.dim() >= 2 and name.rpartition(".")[2] in ("weight", "in_proj_weight"):
                fresh = torch.empty_like(parameter, device="cpu")  # so that every device gets the same
                parameter.copy_(nn.init.kaiming_uniform_(fresh, a=math.sqrt(5)))
                changes.append(f"{name}: drawn anew")
    return awake, changes
