"""The vision transformers of AutoFormer: heads and MLP width of their own in every block, relative positions in all.

Written from the description in Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021,
and from the released configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.counting import Cost

HEAD_DIM = 64
DISTANCE = 14  # relative positions further apart than this are one
ENTRIES = 2 * DISTANCE + 2  # of a table: -14 ... 14, and one for pairs with the class token


@dataclass(frozen=True)
class AutoFormerSpec:
    """A vision transformer, block by block.

    Attributes:
        depth: number of blocks.
        embed_dim: width of the tokens, the same everywhere.
        heads: attention heads of each block, of 64 features each.
        ratios: width of each block's MLP, as a multiple of ``embed_dim``.

    Raises:
        InputError: heads or ratios are not one a block, or a number is not positive.
    """

    depth: int
    embed_dim: int
    heads: tuple[int, ...]
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.heads) == len(self.ratios) == self.depth:
            raise InputError(
                f"depth {self.depth} with {len(self.heads)} numbers of heads and {len(self.ratios)} ratios: "
                "give one of each a block."
            )
        if min(self.depth, self.embed_dim, *self.heads, *self.ratios) <= 0:
            raise InputError(f"{self}: depth, width, heads and ratios must be positive.")

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Of each block the width of the queries and that of the MLP."""
        return [(HEAD_DIM * h, int(self.embed_dim * r)) for h, r in zip(self.heads, self.ratios, strict=True)]


class AutoFormer(nn.Module):
    """A pre-norm vision transformer with relative positions on keys and values, classified by its mean patch token.

    Modules and parameters have the names that they have in every architecture, so that those of a smaller one can be
    cut from those of a larger one.

    Args:
        spec: the architecture.
        num_classes: number of outputs.
        image_size: height and width of the images, multiples of ``patch_size``.
        patch_size: side of a patch.
        channels: of the images.
        dropout: rate after the positions, the attention and both layers of the MLP.
        attention_dropout: rate on the attention weights.
        drop_path: rate of the last block; it grows linearly from 0 at the first.

    Shapes: (N, channels, height, width) to (N, num_classes).

    Raises:
        InputError: the image is no whole number of patches.

    Example:
        >>> net = AutoFormer(AutoFormerSpec(2, 64, (1, 2), (2.0, 3.5)), num_classes=10, image_size=(32, 64))
        >>> net(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 10])
    """

    row_index: Tensor
    column_index: Tensor

    def __init__(
        self,
        spec: AutoFormerSpec,
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        patch_size: int = 16,
        channels: int = 3,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        rows, columns = patch_grid(image_size, patch_size)
        width = spec.embed_dim
        self.image_size = tuple(image_size)
        self.patch_embed = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, rows * columns + 1, width))
        self.dropout = nn.Dropout(dropout)
        # the same for all blocks, hence kept here
        row_index, column_index = relative_indices(rows, columns)
        self.register_buffer("row_index", row_index, persistent=False)
        self.register_buffer("column_index", column_index, persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, dropout, attention_dropout, drop_path * i / max(1, spec.depth - 1))
            for i, (heads, (_, hidden)) in enumerate(zip(spec.heads, spec.blocks, strict=True))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        if images.shape[-2:] != self.image_size:
            raise InputError(
                f"images of {images.shape[-2]} x {images.shape[-1]} enter an AutoFormer built for "
                f"{self.image_size[0]} x {self.image_size[1]}: build it with image_size={tuple(images.shape[-2:])}."
            )
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1)
        tokens = self.dropout(tokens + self.position)
        for block in self.blocks:
            tokens = block(tokens, self.row_index, self.column_index)
        return self.head(self.norm(tokens)[:, 1:].mean(1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and with a residual; shape (N, tokens, width) is kept."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, attention_dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads, dropout, attention_dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, hidden))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("drop1", nn.Dropout(dropout))
        self.mlp.add_module("fc2", nn.Linear(hidden, width))
        self.mlp.add_module("drop2", nn.Dropout(dropout))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor, row_index: Tensor, column_index: Tensor) -> Tensor:
        """The tokens after both residuals."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), row_index, column_index))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))  # type: ignore[no-any-return]


class RelativeAttention(nn.Module):
    """Self-attention whose keys and values depend on where they lie as seen from the query.

    With r_K and r_V (tokens, tokens, 64) of two :class:`RelativePosition`, query i gives key j the logit
    ``q_i . (k_j + r_K[i, j]) / 8`` and gets from it the value ``v_j + r_V[i, j]``.
    """

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * HEAD_DIM * heads)
        self.relative_k = RelativePosition()
        self.relative_v = RelativePosition()
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.proj = nn.Linear(HEAD_DIM * heads, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, row_index: Tensor, column_index: Tensor) -> Tensor:
        """Attend; shape (N, tokens, width) is kept."""
        n, length, _ = tokens.shape
        qkv = self.qkv(tokens).view(n, length, 3, self.heads, HEAD_DIM)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, tokens, 64)
        q = q * HEAD_DIM**-0.5
        logits = q @ k.transpose(-2, -1) + _each_query(q, self.relative_k(row_index, column_index).transpose(1, 2))
        weights = self.attention_dropout(logits.softmax(-1))
        out = weights @ v + _each_query(weights, self.relative_v(row_index, column_index))
        return self.dropout(self.proj(out.transpose(1, 2).reshape(n, length, -1)))  # type: ignore[no-any-return]


class RelativePosition(nn.Module):
    """Vectors (tokens, tokens, 64) of the offset between two tokens: one of its rows plus one of its columns."""

    def __init__(self) -> None:
        super().__init__()
        self.table_v = nn.Parameter(torch.empty(ENTRIES, HEAD_DIM))
        self.table_h = nn.Parameter(torch.empty(ENTRIES, HEAD_DIM))
        nn.init.trunc_normal_(self.table_v, std=0.02)
        nn.init.trunc_normal_(self.table_h, std=0.02)

    def forward(self, row_index: Tensor, column_index: Tensor) -> Tensor:
        """Look the indices of :func:`relative_indices` up."""
        return self.table_v[row_index] + self.table_h[column_index]


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        InputError: the image is no whole number of patches.
    """
    height, width = image_size
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise InputError(
            f"images of {height} x {width} are no whole number of patches of {patch_size} x {patch_size}: "
            f"give a size divisible by {patch_size}."
        )
    return height // patch_size, width // patch_size


def relative_indices(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Entries of the tables for each pair (query, key) of tokens, by rows and by columns.

    The class token comes first; every pair that it is part of has entry 0. Distances are cut off at 14.

    Returns:
        Two index tensors of shape (tokens, tokens), tokens = rows * columns + 1.

    Example:
        >>> relative_indices(1, 2)[1].tolist()
        [[0, 0, 0], [0, 15, 16], [0, 14, 15]]
    """
    place = torch.arange(rows * columns)

    def entries(coordinate: Tensor) -> Tensor:
        offset = coordinate[None, :] - coordinate[:, None]
        return nn.functional.pad(offset.clamp(-DISTANCE, DISTANCE) + DISTANCE + 1, (1, 0, 1, 0))

    return entries(place // columns), entries(place % columns)


def parameters(
    spec: AutoFormerSpec,
    num_classes: int = 1000,
    image_size: tuple[int, int] = (224, 224),
    patch_size: int = 16,
    channels: int = 3,
) -> int:
    """Number of parameters in closed form.

    Example:
        >>> parameters(AutoFormerSpec(14, 448, (7,) * 14, (4.0,) * 14))  # the largest of AutoFormer-Small
        34790440
    """
    rows, columns = patch_grid(image_size, patch_size)
    e = spec.embed_dim
    total = e * (channels * patch_size**2 + 1) + e * (rows * columns + 2) + 2 * e + (e + 1) * num_classes
    for q, f in spec.blocks:
        norms_and_tables = 4 * e + 4 * ENTRIES * HEAD_DIM
        total += norms_and_tables + 3 * q * (e + 1) + e * (q + 1) + f * (e + 1) + e * (f + 1)
    return total


def macs(
    spec: AutoFormerSpec,
    num_classes: int = 1000,
    image_size: tuple[int, int] = (224, 224),
    patch_size: int = 16,
    channels: int = 3,
    *,
    relative: bool = True,
) -> int:
    """Multiply-accumulates of convolution, linear layers and matrix products in closed form.

    Args:
        spec: the architecture.
        num_classes: number of outputs.
        image_size: height and width.
        patch_size: side of a patch.
        channels: of the images.
        relative: count the products with relative positions too, which are not part of most published figures.
    """
    rows, columns = patch_grid(image_size, patch_size)
    n, e = rows * columns + 1, spec.embed_dim
    total = e * channels * patch_size**2 * rows * columns + e * num_classes
    for q, f in spec.blocks:
        total += n * (4 * e * q + 2 * e * f) + (4 if relative else 2) * n**2 * q
    return total


def cost(
    spec: AutoFormerSpec,
    num_classes: int = 1000,
    image_size: tuple[int, int] = (224, 224),
    patch_size: int = 16,
    channels: int = 3,
) -> Cost:
    """:func:`parameters` and :func:`macs`; no table counts flops of these networks by module, so they are the macs."""
    total = macs(spec, num_classes, image_size, patch_size, channels)
    return Cost(parameters(spec, num_classes, image_size, patch_size, channels), total, total)


def _each_query(rows: Tensor, matrices: Tensor) -> Tensor:
    """Row i of every sample and head times matrix i: (N, heads, tokens, a) and (tokens, a, b) to (N, heads, tokens, b).

    As one batched product over the tokens, in which samples and heads are the rows.
    """
    n, heads, length, _ = rows.shape
    product = rows.permute(2, 0, 1, 3).reshape(length, n * heads, -1) @ matrices
    return product.view(length, n, heads, -1).permute(1, 2, 0, 3)
