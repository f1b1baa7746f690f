import collections
import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.scoring import score
from lswag_hooks.spaces import get_space
from lswag_hooks.spaces.base import Space
from lswag_hooks.spaces.counting import count
from lswag_hooks.spaces.darts import (
    DARTS,
    GENOTYPES,
    Genotype,
    from_compact,
    from_genotype,
    network,
    network_cost,
    to_compact,
)
from lswag_hooks.spaces.darts_network import (
    OPERATIONS,
    AuxiliaryHead,
    Cell,
    CellPlan,
    FactorizedReduce,
    drop_path,
    operation,
)

SPACE = DARTS()
ROW_1 = (
    "normal avg_pool_3x3~0 avg_pool_3x3~1 dil_conv_3x3~1 dil_conv_3x3~2 avg_pool_3x3~1 avg_pool_3x3~3 "
    "sep_conv_5x5~3 sep_conv_3x3~1 reduce max_pool_3x3~1 max_pool_3x3~0 sep_conv_3x3~0 dil_conv_3x3~2 "
    "dil_conv_5x5~0 dil_conv_3x3~2 dil_conv_5x5~1 dil_conv_3x3~0"
)
ROW_2 = (
    "normal avg_pool_3x3~0 avg_pool_3x3~1 dil_conv_5x5~0 max_pool_3x3~2 dil_conv_3x3~3 sep_conv_3x3~0 "
    "max_pool_3x3~3 avg_pool_3x3~4 reduce dil_conv_5x5~1 dil_conv_5x5~0 skip_connect~2 dil_conv_3x3~0 "
    "sep_conv_3x3~3 sep_conv_5x5~0 max_pool_3x3~0 dil_conv_3x3~2"
)
PROXY = {"channels": 32, "layers": 8, "affine": False, "pool_norm": True}
IMAGENET = {"channels": 48, "layers": 14, "num_classes": 1000, "stem": "imagenet"}

# params, multiply-accumulates, flops as the published tables count them
GOLDEN = [
    (ROW_1, PROXY, 850_602, 143_832_064, 153_327_104),
    (ROW_1, {"channels": 32, "layers": 8}, 858_666, None, None),
    (ROW_1, {}, 2_703_070, None, None),
    (ROW_2, PROXY, 777_706, 130_454_528, 140_441_088),
    (GENOTYPES["DARTS_V2"], PROXY, 909_866, 159_765_504, 165_918_208),
    (GENOTYPES["DARTS_V2"], {}, 3_349_342, 528_359_040, 548_174_016),
    (GENOTYPES["DARTS_V2"], IMAGENET, 4_718_752, 529_911_552, 545_293_632),
    (GENOTYPES["PC_DARTS_CIFAR"], {}, 3_634_678, 556_670_592, 579_305_664),
    (GENOTYPES["PC_DARTS_IMAGENET"], IMAGENET, 5_342_464, 581_627_328, 597_348_096),
    (GENOTYPES["TE_NAS_CIFAR"], {}, 4_137_526, 637_568_640, 658_959_552),
    (GENOTYPES["TE_NAS_IMAGENET"], IMAGENET, 5_420_416, 590_414_400, 606_135_168),
]


@pytest.mark.parametrize(("architecture", "options", "params", "macs", "flops"), GOLDEN)
def test_published_sizes(architecture, options, params, macs, flops):
    side = 224 if "stem" in options else 32
    cost = network_cost(architecture, (3, side, side), **options)
    assert cost.params == params
    if macs is not None:
        assert (cost.macs, cost.flops) == (macs, flops)


@pytest.mark.parametrize(("architecture", "options", "params", "macs", "flops"), [GOLDEN[i] for i in (0, 5, 6)])
def test_published_sizes_of_built_networks(architecture, options, params, macs, flops):
    side = 224 if "stem" in options else 32
    with torch.device("meta"):
        # the auxiliary head is there, and must not count
        counted = count(network(architecture, **options).eval(), torch.empty(1, 3, side, side))
    assert (counted.params, counted.macs, counted.flops) == (params, macs, flops)


@pytest.mark.parametrize(("task", "size"), [("cifar10", (1, 29, 36)), ("imagenet", 65)])
def test_the_quick_cost_is_that_of_the_network(task, size):
    architecture = SPACE.sample(1)
    slow = Space.counted(SPACE, architecture, *SPACE._asked(7, task, size))
    assert SPACE.cost(architecture, 7, task=task, image_size=size) == slow


def test_every_row_of_the_published_table():
    if "LSWAG_DATA" not in os.environ:
        pytest.skip("LSWAG_DATA is not set")
    with gzip.open(Path(os.environ["LSWAG_DATA"]) / "benchmarks" / "nasbench301.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 800
    for row in rows:
        cost = SPACE.cost(row["arch"])
        assert [f"{x / 1e6:.6g}" for x in (cost.params, cost.flops)] == [
            f"{float(row[key]):.6g}" for key in ("params", "flops")
        ]


def test_build_gives_the_proxy_network_and_the_imagenet_network():
    with torch.device("meta"):
        proxy, large = SPACE.build(ROW_1), SPACE.build(ROW_1, task="imagenet")
    assert proxy.auxiliary is None and large.auxiliary is None
    assert (len(proxy.cells), len(large.cells)) == (8, 14)
    affine = [m.affine for m in proxy.cells[0].operations.modules() if isinstance(m, nn.BatchNorm2d)]
    assert affine and not any(affine)
    assert all(m.affine for m in large.modules() if isinstance(m, nn.BatchNorm2d))
    assert [i for i, cell in enumerate(large.cells) if cell.sources == [1, 0, 0, 2, 0, 2, 1, 0]] == [4, 9]


def test_the_same_seed_gives_the_same_weights():
    first, second, other = (SPACE.build(ROW_2, 3, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


# ------------------------------------------------------------------ operations and cells, against a second way


def norm(x, module):
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias)


def reference_operation(name, module, x, stride):
    """The operation as the paper words it, with the weights of the module in their order."""
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    if name == "skip_connect":
        if stride == 1:
            return x
        x = x.clamp_min(0)
        even, odd = x[:, :, ::2, ::2], F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        return norm(torch.cat([F.conv2d(even, convs[0].weight), F.conv2d(odd, convs[1].weight)], 1), norms[0])
    if name == "max_pool_3x3":
        padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        out = padded.unfold(2, 3, stride).unfold(3, 3, stride).amax((-2, -1))
    elif name == "avg_pool_3x3":
        places = [F.pad(t, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride) for t in (x, torch.ones_like(x))]
        out = places[0].sum((-2, -1)) / places[1].sum((-2, -1))
    else:
        kernel, dilation = int(name[-1]), 2 if name.startswith("dil") else 1
        for index in range(1 if name.startswith("dil") else 2):
            step = stride if index == 0 else 1
            depthwise, pointwise = convs[2 * index : 2 * index + 2]
            assert depthwise.weight.shape == (x.shape[1], 1, kernel, kernel)
            reach = dilation * (kernel // 2)
            x = F.conv2d(x.clamp_min(0), depthwise.weight, None, step, reach, dilation, x.shape[1])
            x = norm(F.conv2d(x, pointwise.weight), norms[index])
        return x
    return norm(out, norms[0]) if norms else out


def randomise_norms(module):
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            if m.affine:
                nn.init.normal_(m.weight)
                nn.init.normal_(m.bias)
    return module.eval()


@pytest.mark.parametrize("sides", [(8, 8), (7, 10)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, stride, sides):
    for affine, pool_norm in ((True, False), (False, True)):
        module = randomise_norms(operation(name, 4, stride, affine, pool_norm))
        x = torch.randn(2, 4, *sides)
        torch.testing.assert_close(module(x), reference_operation(name, module, x, stride))
        weighted = [m.affine for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        assert weighted == [affine and "pool" not in name] * len(weighted)
        assert bool(weighted) == (pool_norm if "pool" in name else name != "skip_connect" or stride == 2)


@pytest.mark.parametrize(("reduction", "after_reduction"), [(False, False), (True, False), (False, True)])
def test_cells(reduction, after_reduction):
    edges = SPACE.parse(SPACE.sample(3)).normal
    cell = randomise_norms(Cell(edges, CellPlan(6, 5, 4, reduction, after_reduction), True, False))
    side = 8
    before_last, last = (
        torch.randn(2, 6, side * (1 + after_reduction), side * (1 + after_reduction)),
        torch.randn(2, 5, side, side),
    )
    nodes = [cell.preprocess_0(before_last), cell.preprocess_1(last)]
    assert isinstance(cell.preprocess_0, FactorizedReduce) == after_reduction
    for node in range(4):
        total = 0
        for place in (2 * node, 2 * node + 1):
            name, source = edges[place]
            stride = 2 if reduction and source in (0, 1) else 1
            total = total + reference_operation(name, cell.operations[place], nodes[source], stride)
        nodes.append(total)
    out = cell(before_last, last)
    assert out.shape == (2, 16, side // (1 + reduction), side // (1 + reduction))
    torch.testing.assert_close(out, torch.cat(nodes[2:], 1))


def test_a_network_chains_its_cells():
    net = network(ROW_1, channels=4, layers=5, auxiliary=False).eval()
    images = torch.randn(2, 3, 16, 16)
    outputs = [net.stems[0](images)] * 2
    assert outputs[0].shape[1] == 12
    for cell in net.cells:
        outputs.append(cell(outputs[-2], outputs[-1]))
    assert [x.shape[-1] for x in outputs[2:]] == [16, 8, 8, 4, 4]
    torch.testing.assert_close(net(images), net.classifier(outputs[-1].mean((2, 3))))


def test_the_imagenet_stem():
    net = network(ROW_1, channels=4, layers=3, num_classes=6, stem="imagenet", auxiliary=False).eval()
    sizes = []
    hooks = [cell.register_forward_pre_hook(lambda _, seen: sizes.append([x.shape[1:] for x in seen[:2]]))
             for cell in net.cells]  # fmt: skip
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 6)
    assert sizes[0] == [(4, 16, 16), (4, 8, 8)]
    assert sizes[1] == [(4, 8, 8), (16, 8, 8)]
    assert len(hooks) == 3


@pytest.mark.parametrize(("task", "size"), [("cifar10", 21), ("cifar10", (1, 9, 14)), ("imagenet", 45)])
def test_images_of_any_size(task, size):
    net = SPACE.build(GENOTYPES["DARTS_V2"], 3, task=task, image_size=size).eval()
    shape = (3, size, size) if isinstance(size, int) else size
    with torch.no_grad():
        assert net(torch.randn(2, *shape)).shape == (2, 3)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("channels", "classes", "stem", "side", "params"),
    [(576, 10, "cifar", 8, 476_426), (768, 1000, "imagenet", 7, 1_260_776)],
)
def test_auxiliary_heads(channels, classes, stem, side, params):
    head = AuxiliaryHead(channels, classes, stem)
    assert sum(p.numel() for p in head.parameters()) == params
    assert head(torch.randn(2, channels, side, side)).shape == (2, classes)
    assert head(torch.randn(2, channels, 16, 16)).shape == (2, classes)
    with pytest.raises(InputError, match="auxiliary=False"):
        head(torch.randn(2, channels, side - 1, side - 1))


def test_the_auxiliary_head_works_in_training_alone():
    net = network(GENOTYPES["DARTS_V2"], channels=4, layers=6, num_classes=7)
    seen = []
    net.auxiliary.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    images = torch.randn(2, 3, 32, 32)
    logits, extra = net(images)
    assert logits.shape == extra.shape == (2, 7)
    assert seen == [(2, 64, 8, 8)]
    assert net.eval()(images).shape == (2, 7)
    assert len(seen) == 1
    assert network(ROW_1, channels=4, layers=6, auxiliary=False)(images).shape == (2, 10)


def test_drop_path_drops_samples_and_keeps_the_mean():
    x = torch.randn(4000, 2, 1, 1)
    dropped = drop_path(x, 0.25)
    zero = (dropped == 0).flatten(1)
    assert torch.equal(zero.all(1), zero.any(1))
    assert 0.22 < zero.any(1).double().mean() < 0.28
    kept = ~zero.any(1)
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75)


def test_drop_path_is_for_training_and_spares_identities():
    plan = CellPlan(4, 4, 4, False, False)
    x = torch.randn(64, 4, 6, 6)
    skips = Cell([("skip_connect", i % 2) for i in range(8)], plan, True, False).train()
    torch.testing.assert_close(skips(x, x, 0.9), skips(x, x, 0.0))
    pools = Cell([("avg_pool_3x3", i % 2) for i in range(8)], plan, True, False).train()
    first, second = pools(x, x, 0.9)[:, :4].flatten(1), pools(x, x, 0.9)[:, 4:8].flatten(1)
    assert 30 < (first == 0).all(1).sum() < 64
    assert not torch.equal((first == 0).all(1), (second == 0).all(1))  # every edge draws for itself
    pools.eval()
    torch.testing.assert_close(pools(x, x, 0.9), pools(x, x, 0.0))


def test_the_rate_of_drop_path_can_be_set():
    net = network(ROW_1, channels=4, layers=3, auxiliary=False, drop_path=0.1)
    images = torch.randn(4, 3, 8, 8)
    assert net.drop_path_rate == 0.1
    net.drop_path_rate = 0.0
    assert torch.equal(net(images), net(images))
    net.drop_path_rate = 0.5
    assert not torch.equal(net(images), net(images))


# ------------------------------------------------------------------ the space


def test_strings_there_and_back():
    for architecture in (ROW_1, ROW_2, *GENOTYPES.values()):
        genotype = SPACE.parse(architecture)
        assert str(genotype) == architecture
        assert from_genotype(genotype) == architecture
        assert from_compact(to_compact(architecture)) == architecture
    assert to_compact(ROW_1)[0] == ((0, 1), (1, 1), (1, 5), (2, 5), (1, 1), (3, 1), (3, 4), (1, 3))
    assert to_compact(GENOTYPES["DARTS_V2"])[1] == ((0, 0), (1, 0), (2, 2), (1, 0), (0, 0), (2, 2), (2, 2), (1, 0))


def test_genotypes_of_other_code():
    Other = collections.namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
    parsed = SPACE.parse(ROW_2)
    other = Other(list(parsed.normal), range(2, 6), list(parsed.reduce), [2, 3, 4, 5])
    assert from_genotype(other) == ROW_2
    with pytest.raises(InputError, match="concatenates"):
        from_genotype(other._replace(reduce_concat=[4, 5]))
    with pytest.raises(InputError, match="is no genotype"):
        from_genotype(ROW_2)


@pytest.mark.parametrize("compact", [3, ((),), (((0, 7),) * 8,) * 2, (((0, 0, 0),) * 8,) * 2, (((0, 1),) * 8,) * 2])
def test_bad_compact_forms(compact):
    with pytest.raises(InputError):
        from_compact(compact)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("normal ", ""), "is no DARTS architecture"),
        (("reduce", "normal"), "is no DARTS architecture"),
        (("sep_conv_5x5~3", "sep_conv_5x5"), "is no edge"),
        (("sep_conv_5x5~3", "sep_conv_5x5~-1"), "is no edge"),
        (("sep_conv_5x5~3", "sep_conv_5x5~5"), "sources are 0 to 4"),
        (("sep_conv_5x5~3", "sep_conv_5x5~1"), "twice"),
        (("sep_conv_5x5~3", "sepp_conv_5x5~3"), "Did you mean 'sep_conv_5x5'"),
        (("sep_conv_5x5~3", "none~3"), "no operation"),
    ],
)
def test_bad_strings_are_named(change, said):
    with pytest.raises(InputError, match=said):
        SPACE.parse(ROW_1.replace(*change))


def test_genes_compose_what_they_came_from():
    for seed in range(50):
        architecture = SPACE.sample(seed)
        genes = SPACE.genes(architecture)
        asked = []
        assert SPACE.compose(lambda name, _, genes=genes, asked=asked: (asked.append(name), genes[name])[1]) == (
            architecture
        )
        assert asked == list(genes)


def test_the_order_of_two_edges_makes_no_difference():
    swapped = ROW_1.replace("sep_conv_5x5~3 sep_conv_3x3~1", "sep_conv_3x3~1 sep_conv_5x5~3")
    assert swapped != ROW_1
    assert SPACE.genes(swapped) == SPACE.genes(ROW_1)
    assert np.array_equal(SPACE.encode(swapped), SPACE.encode(ROW_1))
    assert SPACE.cost(swapped) == SPACE.cost(ROW_1)


def test_the_code_has_one_place_an_edge_and_operation():
    code = SPACE.encode(ROW_1).reshape(2, 14, 7)
    assert SPACE.encode(ROW_1).dtype == np.float64
    pairs = [(node, source) for node in range(2, 6) for source in range(node)]
    found = [sorted((pairs[edge], OPERATIONS[op]) for edge, op in zip(*np.nonzero(cell), strict=True)) for cell in code]
    parsed = SPACE.parse(ROW_1)
    for cell, edges in zip(found, (parsed.normal, parsed.reduce), strict=True):
        assert cell == sorted(((2 + i // 2, source), name) for i, (name, source) in enumerate(edges))


def test_neighbours_differ_in_one_choice():
    architecture = SPACE.sample(7)
    own = SPACE.genes(architecture)
    neighbours = list(SPACE.neighbours(architecture))
    assert len(set(neighbours)) == len(neighbours) == 2 * (8 * 6 + 2 + 5 + 9)
    for neighbour in neighbours:
        genes = SPACE.genes(neighbour)
        assert sum(genes[name] != own[name] for name in own) == 1


def test_mutation_and_crossover():
    rng = np.random.default_rng(0)
    first, second = SPACE.sample(rng), SPACE.sample(rng)
    child = SPACE.genes(SPACE.crossover(first, second, rng))
    assert all(child[name] in (SPACE.genes(first)[name], SPACE.genes(second)[name]) for name in child)
    mutant = SPACE.genes(SPACE.mutate(first, rng))
    assert sum(mutant[name] != gene for name, gene in SPACE.genes(first).items()) == 1
    # a parent whose edges are in the other order must not come back sorted and count as mutated
    assert SPACE.genes(SPACE.mutate(ROW_1, rng)) != SPACE.genes(ROW_1)


def test_size_and_sampling():
    assert SPACE.size == (1 * 3 * 6 * 10 * 7**8) ** 2
    assert get_space("darts").name == "darts"
    drawn = [SPACE.sample(seed) for seed in range(200)]
    assert len(set(drawn)) == 200
    used = np.sum([SPACE.encode(architecture) for architecture in drawn], axis=0)
    assert (used > 0).all()
    with pytest.raises(InputError):
        iter(SPACE)


@pytest.mark.parametrize(
    "options", [{"channels": 5}, {"layers": 0}, {"drop_path": 1.0}, {"stem": "mnist"}, {"drop_path": -0.1}]
)
def test_bad_options(options):
    with pytest.raises(InputError, match=next(iter(options))):
        network(ROW_1, **options)


def test_a_genotype_checks_itself():
    parsed = SPACE.parse(ROW_1)
    with pytest.raises(InputError, match="eight"):
        Genotype(parsed.normal[:6], parsed.reduce)


def test_a_network_can_be_scored():
    net = network(ROW_2, channels=4, layers=4, auxiliary=False)
    result = score(net, Batch.builtin("digits", size=16, samples=4), proxies="lswag,zico")
    assert all(np.isfinite(result[name]) for name in ("lswag", "zico"))
    assert result.coverage.weight_share == 1
