import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.errors import InputError
from lswag_hooks.spaces import get_space
from lswag_hooks.spaces.autoformer import (
    EXAMPLE,
    NAMED,
    AutoFormerBase,
    AutoFormerSmall,
    AutoFormerTiny,
    from_columns,
    network,
    parse,
)
from lswag_hooks.spaces.autoformer_network import AutoFormer, AutoFormerSpec, macs, parameters, relative_indices
from lswag_hooks.spaces.counting import count

SPACES = {"T": AutoFormerTiny(), "S": AutoFormerSmall(), "B": AutoFormerBase()}
SMALL_ONES = AutoFormerSpec(2, 24, (1, 2), (2.0, 3.5))


def uniform(depth, width, heads, ratio):
    return AutoFormerSpec(depth, width, (heads,) * depth, (ratio,) * depth)


def counted(model, *shape):
    return count(model.eval(), torch.empty(1, *shape, device="meta"))


@pytest.mark.parametrize(
    ("space", "name", "params"),
    [
        ("T", "AutoFormer-T", 5_867_944),
        ("S", "AutoFormer-S", 22_891_432),
        ("B", "AutoFormer-B", 53_691_688),
        ("S", "AZ-NAS-S", 22_951_144),
        ("S", "AZ-NAS-S-24M", 23_788_072),
        ("S", "TF-TAS-S", 23_935_336),
    ],
)
def test_published_architectures_have_their_published_size(space, name, params):
    space = SPACES[space]
    cost = space.cost(NAMED[name])
    assert cost.params == params
    with torch.device("meta"):
        built = space.build(NAMED[name])
    whole = counted(built, 3, 224, 224)
    assert (whole.params, whole.macs) == (cost.params, cost.macs)
    assert sum(p.numel() for p in built.parameters()) == params
    assert cost.flops == cost.macs


@pytest.mark.parametrize(
    ("name", "relative", "products"),
    [("AutoFormer-T", 1.482, 1.283), ("AutoFormer-S", 5.161, 4.774), ("AutoFormer-B", 11.691, 11.045)],
)
def test_macs_with_and_without_relative_positions(name, relative, products):
    spec = parse(NAMED[name])
    assert macs(spec) / 1e9 == pytest.approx(relative, abs=5e-4)
    assert macs(spec, relative=False) / 1e9 == pytest.approx(products, abs=5e-4)


def test_params_of_other_heads_and_of_extremes():
    space = SPACES["S"]
    found = [space.cost(NAMED["AZ-NAS-S"], classes).params for classes in (10, 100, 37)]
    assert found == [22_569_994, 22_604_644, 22_580_389]
    assert space.cost(NAMED["AZ-NAS-S"], task="pets").params == 22_580_389
    assert parameters(uniform(12, 320, 5, 3.0)) == 13_057_320
    assert parameters(uniform(14, 448, 7, 4.0)) == 34_790_440
    assert parameters(uniform(12, 384, 6, 4.0)) == 22_142_824
    assert parameters(uniform(14, 256, 4, 4.0)) == 11_669_224  # the supernets of Tiny and Base
    assert parameters(uniform(16, 640, 10, 4.0)) == 80_160_360


@pytest.mark.parametrize("size", [(48, 80), 32, (1, 64, 32)])
def test_cost_equals_the_network_at_other_sizes(size):
    space = SPACES["T"]
    with torch.device("meta"):
        built = space.build(EXAMPLE, 7, image_size=size)
    shape = {(48, 80): (3, 48, 80), 32: (3, 32, 32), (1, 64, 32): (1, 64, 32)}[size]
    cost, whole = space.cost(EXAMPLE, 7, image_size=size), counted(built, *shape)
    assert (whole.params, whole.macs) == (cost.params, cost.macs)


def test_network_is_what_the_paper_describes():
    """Against a second forward pass, in loops over heads and pairs of tokens."""
    torch.manual_seed(0)
    rows, columns = 2, 3
    net = AutoFormer(SMALL_ONES, 5, (8, 12), patch_size=4, channels=2).double().eval()
    for parameter in net.parameters():  # so that neither biases nor norms are trivial
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(images), naive_forward(net, images, rows, columns), rtol=1e-9, atol=1e-9)


def naive_forward(net, images, rows, columns):
    weight, bias = net.patch_embed.weight, net.patch_embed.bias
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4)  # N C rows columns 4 4
    tokens = torch.einsum("ncrsij,ecij->nrse", patches, weight).reshape(len(images), rows * columns, -1) + bias
    tokens = torch.cat([net.class_token.repeat(len(images), 1, 1), tokens], 1) + net.position
    for block, heads in zip(net.blocks, SMALL_ONES.heads, strict=True):
        tokens = tokens + naive_attention(block.attention, norm(tokens, block.norm1), heads, columns)
        hidden = norm(tokens, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    return norm(tokens, net.norm)[:, 1:].mean(1) @ net.head.weight.T + net.head.bias


def norm(tokens, layer):
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def naive_attention(attention, tokens, heads, columns):
    q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, -1)
    length = tokens.shape[1]
    out = torch.zeros_like(q)
    for head in range(heads):
        part = slice(64 * head, 64 * (head + 1))
        for i in range(length):
            logits = torch.stack(
                [(q[:, i, part] * (k[:, j, part] + relative(attention.relative_k, i, j, columns))).sum(-1)
                 for j in range(length)], -1
            ) / 8  # fmt: skip
            weights = logits.softmax(-1)
            for j in range(length):
                out[:, i, part] += weights[:, j, None] * (v[:, j, part] + relative(attention.relative_v, i, j, columns))
    return out @ attention.proj.weight.T + attention.proj.bias


def relative(position, query, key, columns):
    if query == 0 or key == 0:
        return position.table_v[0] + position.table_h[0]
    (a, b), (c, d) = divmod(query - 1, columns), divmod(key - 1, columns)
    return position.table_v[c - a + 15] + position.table_h[d - b + 15]


def test_far_offsets_share_an_entry():
    row, column = relative_indices(1, 20)
    assert row[1:, 1:].unique().tolist() == [15]
    assert column[1, 1:].tolist() == [*range(15, 30), 29, 29, 29, 29, 29]
    assert column[20, 1:].tolist() == [1, 1, 1, 1, 1, *range(1, 16)]
    assert row[0].unique().tolist() == column[:, 0].unique().tolist() == [0]


def test_initial_weights():
    torch.manual_seed(0)
    net = network("d2 e64 h2-1 r4-4", 50, image_size=64)
    drawn = [net.class_token, net.position, net.head.weight, net.blocks[0].mlp.fc1.weight]
    drawn += [net.blocks[1].attention.qkv.weight, net.blocks[1].attention.relative_v.table_h]
    for parameter in drawn:
        assert parameter.std().item() == pytest.approx(0.02, rel=0.25)
    assert not net.blocks[0].attention.qkv.bias.any() and not net.head.bias.any()


def test_rates_reach_the_network():
    net = network(SMALL_ONES, 3, image_size=32, dropout=0.3, attention_dropout=0.2, drop_path=0.1)
    assert net.dropout.p == net.blocks[0].mlp.drop1.p == net.blocks[1].attention.dropout.p == 0.3
    assert net.blocks[1].attention.attention_dropout.p == 0.2
    assert isinstance(net.blocks[0].drop_path, nn.Identity) and net.blocks[1].drop_path.drop_prob == 0.1
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(net(images), net(images))
    assert torch.equal(net.eval()(images), net(images))


def test_indices_are_not_saved_and_a_built_network_loads_its_own_weights():
    net, other = (network(SMALL_ONES, 3, image_size=32) for _ in range(2))
    assert "row_index" not in net.state_dict()
    other.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(net(images), other(images))


def test_parameters_of_a_smaller_network_are_corners_of_a_larger_one():
    small, large = (dict(network(spec, 3, image_size=32).named_parameters()) for spec in
                    (SMALL_ONES, uniform(4, 48, 3, 4.0)))  # fmt: skip
    assert set(small) < set(large)
    for name, parameter in small.items():
        assert all(a <= b for a, b in zip(parameter.shape, large[name].shape, strict=True)), name


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_space_is_consistent(space):
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(30):
        architecture = space.sample(rng)
        spec = space.parse(architecture)
        assert space.format(spec) == architecture
        assert space.from_encoding(space.to_encoding(architecture)) == architecture
        assert from_columns(spec.depth, spec.embed_dim, spec.heads, spec.ratios) == architecture
        own = space.genes(architecture)
        assert space.compose(lambda name, options, own=own: own[name]) == architecture
        child, other = space.mutate(architecture, rng), space.sample(rng)
        space.parse(child)
        crossed = space.genes(space.crossover(architecture, other, rng))
        first, second = space.genes(architecture), space.genes(other)
        assert all(value in (first.get(name), second.get(name)) for name, value in crossed.items())
        lengths.add(space.encode(architecture).shape)
    assert lengths == {(2 + 2 * max(space.depths),)}
    assert get_space(space.name).name == space.name


def test_sizes():
    assert SPACES["S"].size == 3 * (9**12 + 9**13 + 9**14)
    assert SPACES["T"].size == 3 * (4**12 + 4**13 + 4**14)
    assert SPACES["B"].size == 3 * (6**14 + 6**15 + 6**16)


def test_sampling_covers_the_choices_uniformly():
    space, rng = SPACES["S"], np.random.default_rng(1)
    specs = [space.parse(space.sample(rng)) for _ in range(1500)]
    assert {spec.depth for spec in specs} == {12, 13, 14} and {spec.embed_dim for spec in specs} == {320, 384, 448}
    millions = np.array([parameters(spec) for spec in specs]) / 1e6
    # of the facts: 5 % below 15.2, median 22.0, 95 % below 30.4, 64 % up to 24
    assert np.percentile(millions, [5, 50, 95]) == pytest.approx([15.2, 22.0, 30.4], rel=0.03)
    assert (millions <= 24).mean() == pytest.approx(0.64, abs=0.04)


def test_mutation_changes_at_the_published_rates():
    space, rng = SPACES["S"], np.random.default_rng(2)
    parent = NAMED["AZ-NAS-S"]
    genes = space.genes(parent)
    children = [space.genes(space.mutate(parent, rng)) for _ in range(1500)]
    for name, rate in {"depth": 0.4, "dim": 0.4, "ratio 3": 0.2, "heads 5": 0.2}.items():
        changed = np.mean([child[name] != genes[name] for child in children])
        assert changed == pytest.approx(rate * 2 / 3, abs=0.04), name  # one in three draws gives what was there


def test_encoding_is_the_published_list():
    encoding = [12, *[3, 3.5, 4] * 4, *[5, 6, 7] * 4, 384]
    architecture = AutoFormerSmall.from_encoding(encoding)
    spec = SPACES["S"].parse(architecture)
    assert spec == AutoFormerSpec(12, 384, (5, 6, 7) * 4, (3.0, 3.5, 4.0) * 4)
    assert SPACES["S"].to_encoding(architecture) == encoding
    vector = SPACES["S"].encode(architecture)
    assert vector[:2].tolist() == [12, 384] and vector[2:16].tolist() == [*[3, 3.5, 4] * 4, 0, 0]
    assert vector[16:].tolist() == [*[5, 6, 7] * 4, 0, 0]


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("12-192", "write it like"),
        (None, "write it like"),
        (EXAMPLE.replace("d12", "d13"), "one of each a block"),
        (EXAMPLE.replace("e192", "e200"), "no width 200, only 192, 216, 240"),
        (EXAMPLE.replace("h3", "h9"), "no number of heads 9"),
        (EXAMPLE.replace("r3.5", "r2"), "no MLP ratio 2"),
        (EXAMPLE.replace("r3.5", "r3.50"), "write this architecture"),
        (EXAMPLE.replace("h3", "h03"), "write this architecture"),
        ("d1 e192 h3 r4", "no depth 1"),
        ("d1 e192 h0 r4", "positive"),
    ],
)
def test_what_is_no_architecture_is_refused(architecture, message):
    with pytest.raises(InputError, match=message):
        SPACES["T"].parse(architecture)


def test_base_reads_eight_heads_but_never_draws_them():
    space = SPACES["B"]
    eight = NAMED["AutoFormer-B"].replace("h9", "h8", 1)
    assert space.parse(eight).heads[0] == 8
    assert 8 not in {h for seed in range(20) for h in space.parse(space.sample(seed)).heads}


def test_bad_encodings_columns_and_images_are_refused():
    for encoding in ([], [2, 3, 3, 5], [0, 192]):
        with pytest.raises(InputError, match="no AutoFormer encoding"):
            AutoFormerTiny.from_encoding(encoding)
    with pytest.raises(InputError, match="write them like"):
        from_columns(2, 192, "3,4", "4-4")
    with pytest.raises(InputError, match="divisible by 16"):
        SPACES["T"].build(EXAMPLE, image_size=30)
    with pytest.raises(InputError, match="divisible by 16"):
        SPACES["T"].cost(EXAMPLE, image_size=30)
    with pytest.raises(InputError, match="image_size=\\(48, 48\\)"):
        network(SMALL_ONES, 3, image_size=32)(torch.zeros(1, 3, 48, 48))


def test_small_patches_and_many_channels():
    """As in HyTAS: hyperspectral patches, integer ratios, few features."""
    net = network(from_columns(3, 48, "4-6-3", "4-1-3"), 16, image_size=(12, 6), patch_size=3, channels=200)
    assert net(torch.randn(2, 200, 12, 6)).shape == (2, 16)


def test_scores_cover_every_weight():
    torch.manual_seed(0)
    batch = lh.Batch(torch.randn(4, 3, 64, 64), torch.arange(4))
    result = lh.score(network(SMALL_ONES, 4, image_size=64), batch, proxies=["lswag", "zico"])
    assert result.coverage.uncovered == {} and result.coverage.weight_share == result.coverage.activation_share == 1.0
    assert result.coverage.activations == {"gelu": 2} and not result.coverage.unplaced
    assert len(result.coverage.tables) == 8  # two tables for keys and two for values, in two blocks
    assert math.isfinite(result["lswag"]) and math.isfinite(result["zico"])


@pytest.mark.skipif("LSWAG_DATA" not in os.environ, reason="LSWAG_DATA names no folder of published tables")
def test_published_table_of_tiny():
    with open(Path(os.environ["LSWAG_DATA"]) / "vit" / "autoformer_tiny_imagenet.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1001
    for row in rows:
        architecture = from_columns(int(row["depth"]), int(row["embed_dim"]), row["num_heads"], row["mlp_ratio"])
        assert SPACES["T"].cost(architecture).params == round(float(row["params_m"]) * 1e6)
