"""A classifier's weights into a detector's backbone."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lswag_hooks.detection.pyramid import Backbone
from lswag_hooks.errors import InputError

ENOUGH = 0.9  # share of the backbone's weights that must be in the file
KEYS = ("state_dict", "model", "model_ema", "state_dict_ema")  # where training code puts the weights


def load_pretrained(backbone: Backbone, path: str | Path) -> list[str]:
    """Load what fits; heads, last norms and the norms of the four maps are of one side only.

    Args:
        backbone: it is changed in place.
        path: of a state dict of the classifier, alone or in a checkpoint of Lightning, timm or mmengine. It is read
            with ``weights_only``. A prefix that all names share does not matter.

    Returns:
        Names of the backbone's weights that were not in the file, and begin as they were drawn.

    Raises:
        InputError: the file cannot be read, holds no weights, or fewer than nine tenths of the backbone's.
    """
    file = Path(path).expanduser()
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{file} cannot be read as a checkpoint of plain weights ({said}).") from error
    found = state_of(content)
    own = {name: value for name, value in backbone.body.state_dict().items() if isinstance(value, Tensor)}
    fitting = _best(found, own)
    share = sum(own[name].numel() for name in fitting) / max(1, sum(value.numel() for value in own.values()))
    if share < ENOUGH:
        raise InputError(
            f"{file} has {share:.0%} of the weights of {backbone.name}: it is of another network, or its names differ."
        )
    backbone.body.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def state_of(content: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, wherever training code has put them."""
    for key in KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _best(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What fits under the prefix under which most of it does."""
    prefixes = {""} | {name[: -len(first)] for first in list(own)[:1] for name in found if name.endswith(first)}
    best: dict[str, Tensor] = {}
    for prefix in sorted(prefixes):
        fits = {
            name: found[prefix + name]
            for name, value in own.items()
            if prefix + name in found and found[prefix + name].shape == value.shape
        }
        best = fits if len(fits) > len(best) else best
    return best
