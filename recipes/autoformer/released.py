"""Read the supernets that AutoFormer's authors released (supernet-tiny.pth, supernet-small.pth, supernet-base.pth).

They are linked from https://github.com/microsoft/Cream/tree/main/AutoFormer. Only names differ: rows of queries, keys
and values, and the way in which their bias is cut, are the same here (see :class:`~.supernet.Supernet`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from lswag_hooks.errors import InputError
from recipes.autoformer.choices import PUBLISHED

_NAMES = (  # theirs, ours
    (r"^patch_embed_super\.proj\.", "patch_embed."),
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "position"),
    (r"\.attn_layer_norm\.", ".norm1."),
    (r"\.ffn_layer_norm\.", ".norm2."),
    (r"\.attn\.rel_pos_embed_([kv])\.embeddings_table_([vh])$", r".attention.relative_\1.table_\2"),
    (r"\.attn\.", ".attention."),
    (r"\.(fc[12])\.", r".mlp.\1."),
)


def is_released(state: Mapping[str, object]) -> bool:
    """Whether these are names of the released weights."""
    return "patch_embed_super.proj.weight" in state


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released weights under the names of :class:`~lswag_hooks.spaces.autoformer_network.AutoFormer`."""
    found = {}
    for name, tensor in state.items():
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        found[name] = tensor
    return found


def released_space(state: Mapping[str, Tensor]) -> str:
    """The space of released weights, by the width of their tokens.

    Raises:
        InputError: no published supernet is that wide.
    """
    width = state["cls_token"].shape[-1]
    for name, (_, published, _, _) in PUBLISHED.items():
        if width == published:
            return name
    widths = ", ".join(f"{published} ({name})" for name, (_, published, _, _) in PUBLISHED.items())
    raise InputError(f"these AutoFormer weights are {width} wide, and the published supernets are {widths}.")
