"""AutoFormer's supernet: one network of the largest size, whose weights every smaller one is cut from.

Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021, Sec. 3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.autoformer import PATCH, AutoFormerSpace
from lswag_hooks.spaces.autoformer_network import AutoFormer, AutoFormerSpec
from recipes.autoformer.choices import largest


class Supernet(nn.Module):
    """All networks of a space in one set of weights.

    A subnet's blocks are the first ones, and its weights the leading rows and columns of the supernet's. Only those of
    queries, keys and values lie differently: row 3i + j of ``qkv.weight`` is row i of the queries (j = 0), keys (1) or
    values (2), so that a subnet with fewer heads, too, finds its rows at the beginning. The bias of ``qkv`` is
    cut off at the same place but *not* sorted in that way: so it is in the released code and weights, and each number
    of heads thus finds its keys' bias elsewhere.

    Args:
        space: what subnets there are.
        num_classes: number of outputs.
        image_size: a side, or height and width.
        patch_size: side of a patch.
        channels: of the images.
        dropout: rate for the widest tokens; narrower ones have proportionally less.
        attention_dropout: the same, on attention weights.
        drop_path: rate of the supernet's last block; it grows linearly from 0 at the first.

    Shapes: (N, channels, height, width) to (N, num_classes).

    Raises:
        InputError: the image is no whole number of patches.
    """

    def __init__(
        self,
        space: AutoFormerSpace,
        num_classes: int = 1000,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = PATCH,
        channels: int = 3,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.space, self.largest = space, largest(space)
        self.rates = {"dropout": dropout, "attention_dropout": attention_dropout, "drop_path": drop_path}
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.sizes = (num_classes, (height, width), patch_size, channels)
        # holds the weights under the names that they have in every subnet, and is itself never run
        self.weights = AutoFormer(self.largest, *self.sizes)

    def forward(self, images: Tensor, architecture: str) -> Tensor:
        """Class scores of a subnet: of a network without values of its own, with views of these weights."""
        spec = self.space.parse(architecture)
        with torch.device("meta"):
            subnet = AutoFormer(spec, *self.sizes, **self._rates(spec)).train(self.training)
        indices = {"row_index": self.weights.row_index, "column_index": self.weights.column_index}
        views = {name: self._view(name, p.shape) for name, p in subnet.named_parameters()}
        return functional_call(subnet, views | indices, (images,))  # type: ignore[no-any-return]

    def inherit(self, architecture: str, **rates: Any) -> AutoFormer:
        """A network of its own, with a copy of the subnet's weights.

        Args:
            architecture: of the space.
            rates: of dropout, as for :class:`AutoFormer`; by default 0.
        """
        subnet = AutoFormer(self.space.parse(architecture), *self.sizes, **rates)
        with torch.no_grad():
            for name, parameter in subnet.named_parameters():
                parameter.copy_(self._view(name, parameter.shape))
        return subnet

    def _view(self, name: str, shape: torch.Size) -> Tensor:
        weight = self.weights.get_parameter(name)
        if name.endswith("qkv.weight"):
            rows, columns = shape[0] // 3, shape[1]
            by_kind = weight.view(-1, 3, weight.shape[1])[:rows, :, :columns].transpose(0, 1)
            return by_kind.reshape(shape)
        return weight[tuple(slice(size) for size in shape)]

    def _rates(self, spec: AutoFormerSpec) -> dict[str, Any]:
        share = spec.embed_dim / self.largest.embed_dim
        # the rate of the subnet's own last block
        deep = (spec.depth - 1) / max(1, self.largest.depth - 1)
        return {name: rate * (deep if name == "drop_path" else share) for name, rate in self.rates.items()}


def drawn(space: AutoFormerSpace, seed: int, step: int) -> str:
    """The subnet of a training step: uniform, and the same for all processes and after a resume.

    Its random state depends on nothing but the two numbers.
    """
    return space.sample(np.random.default_rng([seed, step]))


def distinct(space: AutoFormerSpace, number: int, seed: int) -> list[str]:
    """Subnets drawn uniformly, without repetition; fewer are the beginning of more.

    Raises:
        InputError: the space has not so many.
    """
    if not 1 <= number <= (space.size or number):
        raise InputError(f"subnets={number}: {space.name} has {space.size:,} architectures.")
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        found[space.sample(rng)] = None
    return list(found)
