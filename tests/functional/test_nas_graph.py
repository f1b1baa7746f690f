"""NASGraph on whole networks of NAS-Bench-201, against loops over a graph written down from the architecture."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lswag_hooks import Batch, get_space, score
from lswag_hooks.proxies import NASGraph

IMAGE, SIDE = "image", 8


def layers_of(net, ops):
    """Every convolution with its norm, the side of its maps and the layers that it reads; and what the head reads.

    Written down from the space's definition: pooling, skipped edges and sums pass on what they are given.
    """
    found = {}

    def conv(module, norm, side, parents):
        name = len(found)
        found[name] = (module, norm, side, set(parents))
        return {name}

    side, feeding = SIDE, conv(net.stem[0], net.stem[1], SIDE, {IMAGE})
    for number, block in enumerate(net.cells):
        if number in (5, 11):  # between stages of five cells
            first = conv(block.first[1], block.first[2], side, feeding)
            shortcut = conv(block.shortcut[1], None, side // 2, feeding)  # behind a pooling by two
            feeding = conv(block.second[1], block.second[2], side // 2, first) | shortcut
            side //= 2
            continue
        nodes = [feeding, set(), set(), set()]
        for (source, target), op in zip(((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), ops, strict=True):
            if op.startswith("nor_conv"):
                edge = block.edges[f"{source}_{target}"]
                nodes[target] |= conv(edge[1], edge[2], side, nodes[source])
            elif op != "none":
                nodes[target] |= nodes[source]
        feeding = nodes[3]
    return found, feeding


def answers(module, norm, side):
    """Whether output channel j is above zero anywhere where input channel i is one and all others are zero: [i, j]."""
    weight = module.weight.detach().numpy()
    outs, ins, kernel, _ = weight.shape
    stride, padding = module.stride[0], module.padding[0]
    size = (side + 2 * padding - kernel) // stride + 1
    maps = np.zeros((ins, outs, size, size))
    for row, column, a, b in itertools.product(range(size), range(size), range(kernel), range(kernel)):
        y, x = row * stride + a - padding, column * stride + b - padding
        if 0 <= y < side and 0 <= x < side:
            maps[:, :, row, column] += weight[:, :, a, b].T
    if norm is not None:
        mean, variance = maps.mean((0, 2, 3), keepdims=True), maps.var((0, 2, 3), keepdims=True)
        gain, bias = (part.detach().numpy()[None, :, None, None] for part in (norm.weight, norm.bias))
        maps = (maps - mean) / np.sqrt(variance + norm.eps) * gain + bias
    return (maps > 0).any((2, 3))


def average_degree(net, ops, norms):
    layers, last = layers_of(net, ops)
    widths = {name: layer[0].out_channels for name, layer in layers.items()} | {IMAGE: 3}
    edges = set()
    for name, (module, norm, side, parents) in layers.items():
        table = answers(module, norm if norms else None, side)
        for parent in parents:
            edges |= {((parent, i), (name, j)) for i, j in zip(*np.nonzero(table), strict=True)}
    for parent in last:
        edges |= {((parent, i), ("head", i)) for i in range(widths[parent])}
    return 2 * len(edges) / len(set(itertools.chain(*edges)))


def drawn_anew(net):
    """As published: convolutions and linear layers from N(0, 1), biases zero."""
    source = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data = torch.randn(module.weight.shape, generator=source).double()


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("init", ["normal", None])
@pytest.mark.parametrize(
    "architecture",
    [
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|",
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|",
        "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|",  # reads nothing
        "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    ],
)
def test_average_degree_of_nasbench201(architecture, init, norms):
    torch.manual_seed(1)
    space = get_space("nasbench201")
    net = space.build(architecture).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and init is None:  # what the default sets to one and zero
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    batch = Batch(torch.randn(2, 3, SIDE, SIDE).double(), torch.tensor([0, 1]))
    found = score(net, batch, NASGraph(init=init, norms=norms))["nas_graph"]
    if init == "normal":
        drawn_anew(net)
    assert found == pytest.approx(average_degree(net, space.parse(architecture), norms), rel=1e-12)
