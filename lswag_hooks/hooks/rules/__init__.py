"""Per-sample gradients of one weight, tile by tile: one small class a kind of product, all with the same three members.

A *gradient source* knows the operands of a product (the layer's input and the gradient of its output) and forms the
per-sample gradients of the weight block by block, so that they are never stored whole:

- ``rows``, ``columns``: the weight seen as a matrix, in whatever order of elements suits the product;
- ``block(samples, rows)``: per-sample gradients of those rows, shape (samples, rows, columns);
- ``arrange(weight)``: the weight itself in that order, and ``restore(matrix)`` the way back.
"""

from lswag_hooks.hooks.rules.conv import conv_source
from lswag_hooks.hooks.rules.derived import BroadcastGradient, DerivedGradient, EmbeddingGradient, SumGradient
from lswag_hooks.hooks.rules.linear import LinearGradient
from lswag_hooks.hooks.rules.source import GradientSource, blocks

__all__ = [
    "BroadcastGradient",
    "DerivedGradient",
    "EmbeddingGradient",
    "GradientSource",
    "LinearGradient",
    "SumGradient",
    "blocks",
    "conv_source",
]
