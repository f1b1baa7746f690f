import csv
import gzip
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.base import Space
from lswag_hooks.spaces.counting import Cost
from lswag_hooks.spaces.nasbench201 import EDGES, OPS, Cell, NASBench201, ResidualBlock

SPACE = NASBench201()
BEST = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
POOLED = "|avg_pool_3x3~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|avg_pool_3x3~0|none~1|skip_connect~2|"
MIXED = "|nor_conv_1x1~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|nor_conv_3x3~2|"
DISCONNECTED = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"


def all_edges(op):
    return f"|{op}~0|+|{op}~0|{op}~1|+|{op}~0|{op}~1|{op}~2|"


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    return [SPACE.random(rng) for _ in range(count)]


def paths(architecture, ops):
    """Number of paths from node 0 to node 3 over edges with one of these operations, by powers of the matrix."""
    adjacency = np.zeros((4, 4), dtype=int)
    for target, group in enumerate(architecture.split("+"), start=1):
        for edge in group.strip("|").split("|"):
            op, source = edge.split("~")
            adjacency[int(source), target] = op in ops
    return sum(np.linalg.matrix_power(adjacency, length)[0, 3] for length in (1, 2, 3))


GOLDEN = [
    (all_edges("nor_conv_3x3"), "cifar10", Cost(1_531_546, 222_860_992, 220_119_680)),
    (BEST, "cifar10", Cost(858_426, 124_126_912, 121_815_680)),
    (all_edges("skip_connect"), "cifar10", Cost(73_306, 7_943_872, 7_783_040)),
    (POOLED, "cifar10", Cost(73_306, 13_104_832, 7_783_040)),
    (MIXED, "cifar10", Cost(615_386, 89_597_632, 86_426_240)),
    (all_edges("nor_conv_3x3"), "imagenet16-120", Cost(1_538_696, 55_723_072, 55_037_440)),
]


@pytest.mark.parametrize(("architecture", "task", "expected"), GOLDEN)
def test_golden_costs_in_closed_form_and_by_running(architecture, task, expected):
    assert SPACE.cost(architecture, task=task) == expected
    assert Space.counted(SPACE, architecture, *SPACE._asked(None, task, None)) == expected
    with torch.device("meta"):
        built = SPACE.build(architecture, task=task)
    assert sum(parameter.numel() for parameter in built.parameters()) == expected.params


@pytest.mark.parametrize("size", [33, (1, 7, 18), 1])
def test_closed_form_is_what_running_counts(size):
    for architecture in drawn(2, seed=hash(size) % 1000):
        assert SPACE.cost(architecture, 7, image_size=size) == Space.counted(
            SPACE, architecture, *SPACE._asked(7, None, size)
        )


@pytest.mark.parametrize(("task", "params"), [("cifar10", 73_306), ("cifar100", 79_156), ("imagenet16-120", 80_456)])
def test_classes_and_images_of_the_tasks(task, params):
    assert SPACE.cost(all_edges("none"), task=task).params == params
    side = 16 if task == "imagenet16-120" else 32
    assert SPACE.cost(BEST, task=task) == SPACE.cost(BEST, SPACE.tasks[task], image_size=side)


def test_parses_edges_in_the_order_of_the_string():
    architecture = "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"
    ops = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none")
    assert SPACE.parse(architecture) == ops
    names = ["edge 0-1", "edge 0-2", "edge 1-2", "edge 0-3", "edge 1-3", "edge 2-3"]
    assert SPACE.genes(architecture) == dict(zip(names, ops, strict=True))
    assert list(SPACE.genes(architecture)) == names


def test_composes_what_the_genes_say():
    for architecture in drawn(50):
        genes = SPACE.genes(architecture)
        assert SPACE.compose(lambda name, options, genes=genes: genes[name]) == architecture


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        None,
        BEST[:-1],
        BEST + "\n",
        " " + BEST,
        BEST.replace("~2", "~1"),
        BEST.replace("+", ""),
        BEST.replace("skip_connect~0", ""),
        BEST + "+|none~0|none~1|none~2|none~3|",
        (2, 3, 0, 2, 3, 2),
    ],
)
def test_refuses_another_form_and_shows_an_example(wrong):
    with pytest.raises(InputError, match=r"write it like '\|nor_conv_3x3~0\|"):
        SPACE.parse(wrong)


def test_refuses_an_unknown_operation_and_suggests_one():
    with pytest.raises(InputError, match=r"no operation 'nor_conv_5x5'.*Did you mean 'nor_conv_"):
        SPACE.build(BEST.replace("nor_conv_3x3", "nor_conv_5x5"))


def test_lists_every_architecture_once():
    listed = list(SPACE)
    assert len(listed) == len(set(listed)) == SPACE.size == 5**6
    assert all(set(SPACE.parse(architecture)) <= set(OPS) for architecture in listed[::97])


def test_degenerate_is_a_cell_without_a_path():
    degenerate = [architecture for architecture in SPACE if SPACE.degenerate(architecture)]
    assert len(degenerate) == 341
    connecting = set(OPS) - {"none"}
    assert degenerate == [architecture for architecture in SPACE if paths(architecture, connecting) == 0]
    assert "disconnected" in SPACE.validate(DISCONNECTED)
    assert SPACE.validate(BEST) is None


def test_samples_and_their_relatives_work_and_differ_in_one_operation():
    for seed in range(20):
        architecture = SPACE.sample(seed)
        mutant = SPACE.mutate(architecture, seed)
        assert sum(a != b for a, b in zip(SPACE.parse(architecture), SPACE.parse(mutant), strict=True)) == 1
        assert SPACE.validate(mutant) is None
        child = SPACE.crossover(architecture, mutant, seed)
        assert child in {architecture, mutant}
    assert SPACE.sample(3) == SPACE.sample(3)
    assert len({SPACE.sample(seed) for seed in range(20)}) > 15


def test_neighbours_are_all_one_operation_away():
    neighbours = list(SPACE.neighbours(BEST))
    own = SPACE.parse(BEST)
    naive = [
        architecture
        for architecture in SPACE
        if sum(a != b for a, b in zip(own, SPACE.parse(architecture), strict=True)) == 1
        and not SPACE.degenerate(architecture)
    ]
    assert sorted(neighbours) == sorted(naive)
    assert len(neighbours) == 24


def test_encoding_is_one_hot_by_edge():
    code = SPACE.encode(MIXED)
    assert code.shape == (30,)
    assert code.dtype == np.float64
    assert [OPS[i] for i in code.reshape(6, 5).argmax(1)] == list(SPACE.parse(MIXED))
    assert code.sum() == 6
    assert len({SPACE.encode(architecture).tobytes() for architecture in itertools.islice(SPACE, 500)}) == 500


def test_reads_the_six_integers_of_naslib():
    # edges 0-1, 0-2, 0-3, 1-2, 1-3, 2-3
    assert SPACE.from_indices((0, 1, 2, 3, 4, 0)) == (
        "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|skip_connect~2|"
    )
    for wrong in [(0,) * 5, (0, 1, 2, 3, 4, 5), (-1, 0, 0, 0, 0, 0)]:
        with pytest.raises(InputError, match="six numbers from 0 to 4"):
            SPACE.from_indices(wrong)


def test_a_cell_sums_over_its_paths():
    # on a constant map an average that leaves out the padding is the identity, so the output counts paths
    carrying = ("skip_connect", "avg_pool_3x3")
    rng = np.random.default_rng(0)
    for _ in range(30):
        ops = tuple(rng.choice(["none", *carrying], size=6))
        architecture = SPACE.compose(lambda name, options, ops=ops: ops[_position(name)])
        out = Cell(SPACE.parse(architecture), 2)(torch.ones(1, 2, 4, 5))
        torch.testing.assert_close(out, torch.full((1, 2, 4, 5), float(paths(architecture, carrying))))


def _position(name):
    return [f"edge {i}-{j}" for i, j in EDGES].index(name)


def test_a_cell_of_convolutions_against_its_formula():
    ops = SPACE.parse(MIXED)
    cell = Cell(ops, 4).eval()
    x = torch.randn(2, 4, 6, 6)

    def apply(edge, features):
        _, conv, norm = cell.edges[edge]
        return (
            nn.functional.conv2d(features.clamp(min=0), conv.weight, padding=conv.kernel_size[0] // 2)
            / (1 + norm.eps) ** 0.5
        )

    first = apply("0_1", x)
    second = x + apply("1_2", first)
    third = apply("0_3", x) + nn.functional.avg_pool2d(first, 3, 1, 1, count_include_pad=False) + apply("2_3", second)
    torch.testing.assert_close(cell(x), third)
    assert [cell.edges[e][1].kernel_size[0] for e in ("0_1", "1_2", "0_3", "2_3")] == [1, 1, 3, 3]


def test_the_residual_block_against_its_formula():
    block = ResidualBlock(3, 6).eval()
    x = torch.randn(2, 3, 8, 6)
    scale = (1 + 1e-5) ** 0.5
    conv = nn.functional.conv2d
    main = conv(x.clamp(min=0), block.first[1].weight, stride=2, padding=1) / scale
    main = conv(main.clamp(min=0), block.second[1].weight, padding=1) / scale
    short = conv(nn.functional.avg_pool2d(x, 2, 2), block.shortcut[1].weight)
    torch.testing.assert_close(block(x), main + short)
    assert block(torch.randn(1, 3, 7, 5)).shape == (1, 6, 4, 3)


@pytest.mark.parametrize("size", [32, 33, (12, 17), (1, 16, 16)])
def test_runs_at_any_size_with_any_number_of_classes(size):
    net = SPACE.build(MIXED, 5, image_size=size)
    channels = size[0] if isinstance(size, tuple) and len(size) == 3 else 3
    sides = (size, size) if isinstance(size, int) else size[-2:]
    out = net(torch.randn(2, channels, *sides))
    assert out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_disconnected_network_runs_and_does_not_see_its_input():
    net = SPACE.build(DISCONNECTED).eval()
    a, b = net(torch.randn(2, 3, 32, 32)), net(torch.full((2, 3, 32, 32), float("nan")))
    assert torch.isfinite(a).all()
    connected = SPACE.build(BEST).eval()
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(connected(x), connected(2 * x))
    # what the residual shortcut carries from a cell of zeros is a constant too
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a[0], a[1])


def test_norms_are_affine_and_activations_are_modules():
    net = SPACE.build(all_edges("nor_conv_3x3"))
    assert all(m.affine and m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    # 15 cells of 6, two blocks of 2, one before the pooling
    assert sum(isinstance(m, nn.ReLU) for m in net.modules()) == 15 * 6 + 2 * 2 + 1
    assert not any(m.inplace for m in net.modules() if isinstance(m, nn.ReLU))


def test_the_same_seed_gives_the_same_weights():
    first = SPACE.build(BEST, seed=1).state_dict()
    torch.rand(3)
    again, other = SPACE.build(BEST, seed=1).state_dict(), SPACE.build(BEST, seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_refuses_no_classes_and_unknown_tasks():
    for call in (SPACE.cost, SPACE.build):
        with pytest.raises(InputError, match="num_classes=0"):
            call(BEST, 0)
        with pytest.raises(InputError, match="no task 'cifar11'"):
            call(BEST, task="cifar11")


@pytest.mark.skipif("LSWAG_DATA" not in os.environ, reason="LSWAG_DATA is not set")
def test_the_published_table():
    with gzip.open(Path(os.environ["LSWAG_DATA"], "benchmarks", "nasbench201.csv.gz"), "rt") as file:
        rows = list(csv.DictReader(file))
    assert {row["arch"] for row in rows} == set(SPACE)
    chance = {row["arch"] for row in rows if float(row["val_accuracy"]) == 10}
    assert chance == {row["arch"] for row in rows if SPACE.degenerate(row["arch"])}
    counted = [row for row in rows if row["params"]]
    assert len(counted) == 1386
    for row in counted:
        cost = SPACE.cost(row["arch"])
        for column in ("params", "flops"):
            assert float(row[column]) == float(f"{getattr(cost, column) / 1e6:.6g}"), (row["arch"], column)
