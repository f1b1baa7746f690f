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
from lswag_hooks.spaces.nasbench101 import Cell, NASBench101
from lswag_hooks.spaces.nasbench101_cell import OPS, vertex_channels

SPACE = NASBench101()
THROUGH = (
    "0000001/0001011/0000001/0000110/0000011/0000000/0000000 "
    "input,conv1x1-bn-relu,conv1x1-bn-relu,maxpool3x3,conv1x1-bn-relu,conv1x1-bn-relu,output"
)
UNEVEN = (
    "0010100/0010000/0001001/0000011/0000010/0000001/0000000 "
    "input,conv3x3-bn-relu,conv1x1-bn-relu,conv1x1-bn-relu,maxpool3x3,maxpool3x3,output"
)
FOUR = (
    "0110010/0001001/0000101/0000011/0000001/0000000/0000000 "
    "input,maxpool3x3,conv3x3-bn-relu,conv1x1-bn-relu,conv1x1-bn-relu,conv3x3-bn-relu,output"
)
LARGE = (
    "0010111/0001101/0000001/0000000/0000011/0000000/0000000 "
    "input,conv1x1-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,maxpool3x3,maxpool3x3,output"
)
INCEPTION = (
    "0111010/0000001/0000001/0000100/0000001/0000001/0000000 "
    "input,conv1x1-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,maxpool3x3,output"
)
DISCONNECTED = "0100/0000/0001/0000 input,maxpool3x3,conv3x3-bn-relu,output"
GOLDEN = [
    (THROUGH, Cost(882_570, 140_416_000, 137_761_792)),
    (UNEVEN, Cost(824_981, 134_168_640, 126_736_512)),
    (FOUR, Cost(1_159_370, 179_180_544, 174_461_952)),
    (LARGE, Cost(4_081_418, 620_565_504, 611_718_144)),
    (INCEPTION, Cost(2_694_282, 408_269_824, 402_002_944)),
]


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    return [SPACE.random(rng) for _ in range(count)]


def paths_to(matrix, vertex):
    """Number of paths from the input to a vertex, by powers of the matrix."""
    adjacency = np.array(matrix)
    return sum(np.linalg.matrix_power(adjacency, length)[0, vertex] for length in range(1, len(matrix)))


def on_a_path(rows):
    """Vertices on a path from the first to the last, by listing all paths."""
    last, found = len(rows) - 1, set()
    for length in range(last):
        for inner in itertools.combinations(range(1, last), length):
            path = (0, *inner, last)
            if all(rows[i][j] == "1" for i, j in itertools.pairwise(path)):
                found |= set(path)
    return sorted(found)


@pytest.mark.parametrize(("architecture", "expected"), GOLDEN)
def test_golden_costs_in_closed_form_and_by_running(architecture, expected):
    assert SPACE.cost(architecture) == expected
    assert Space.counted(SPACE, architecture, *SPACE._asked(None, None, None)) == expected
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in SPACE.build(architecture).parameters()) == expected.params


@pytest.mark.parametrize("size", [33, (1, 6, 19), 4])
def test_closed_form_is_what_running_counts(size):
    for architecture in drawn(2, seed=hash(size) % 1000):
        assert SPACE.cost(architecture, 7, image_size=size) == Space.counted(
            SPACE, architecture, *SPACE._asked(7, None, size)
        )


def test_prunes_what_is_on_no_path():
    assert SPACE.parse(THROUGH) == (((0, 1), (0, 0)), ("input", "output"))
    rng = np.random.default_rng(1)
    for _ in range(100):
        architecture = Space.random(SPACE, rng)  # any number of edges, connected or not
        rows, ops = (part.split(by) for part, by in zip(architecture.split(" "), "/,", strict=True))
        kept = on_a_path(rows)
        if not kept:
            assert SPACE.parse(architecture) == (((0, 0), (0, 0)), ("input", "output"))
            continue
        matrix = tuple(tuple(int(rows[i][j]) for j in kept) for i in kept)
        if sum(map(sum, matrix)) > 9:
            with pytest.raises(InputError, match="edges after pruning"):
                SPACE.parse(architecture)
        else:
            assert SPACE.parse(architecture) == (matrix, tuple(ops[i] for i in kept))


def test_channels_are_shared_out_with_the_rest_to_the_first():
    first, wider = (vertex_channels(SPACE.parse(UNEVEN).matrix, 128, out) for out in (128, 256))
    assert first == [128, 43, 43, 42, 42, 128]
    assert wider == [128, 86, 85, 85, 85, 256]
    assert vertex_channels(SPACE.parse(FOUR).matrix, 128, 128) == [128, 32, 32, 32, 32, 128]
    assert vertex_channels(SPACE.parse(THROUGH).matrix, 128, 256) == [128, 256]


class Cut(nn.Module):
    """Stands for a projection: the first channels, repeated where more are asked for."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, features):
        return features[:, :1].expand(-1, self.channels, -1, -1)


def test_a_cell_wires_its_graph():
    # with all operations the identity, an output channel counts the paths to the vertex that it comes from
    for architecture in [*drawn(25), UNEVEN, THROUGH]:
        spec = SPACE.parse(architecture)
        cell = Cell(spec, 4, 14)
        for name in cell.projections:
            cell.projections[name] = Cut(cell.channels[int(name)])
        for name in cell.operations:
            cell.operations[name] = nn.Identity()
        last = len(spec.ops) - 1
        direct = spec.matrix[0][last]
        expected = [
            paths_to(spec.matrix, v) + direct
            for v in range(1, last)
            if spec.matrix[v][last]
            for _ in range(cell.channels[v])
        ]
        out = cell(torch.ones(1, 4, 2, 2))
        assert out[0, :, 0, 0].tolist() == (expected or [direct] * 14)


def test_an_earlier_vertex_gives_only_its_first_channels():
    # vertices 1 and 2 share 5 channels as 3 and 2, and 1 feeds 2
    spec = SPACE.parse("0101/0011/0001/0000 input,conv1x1-bn-relu,conv1x1-bn-relu,output")
    cell = Cell(spec, 2, 5)
    assert cell.channels == [2, 3, 2, 5]
    cell.projections["1"] = nn.Conv2d(2, 3, 1, bias=False)
    cell.operations["1"] = cell.operations["2"] = nn.Identity()
    cell.projections["3"] = nn.Conv2d(2, 5, 1, bias=False)
    x = torch.randn(2, 2, 3, 3)
    one = cell.projections["1"](x)
    torch.testing.assert_close(cell(x), torch.cat([one, one[:, :2]], 1) + cell.projections["3"](x))


def test_operations_and_projections_are_what_they_are_called():
    spec = SPACE.parse("01001/00100/00010/00001/00000 input,conv3x3-bn-relu,maxpool3x3,conv1x1-bn-relu,output")
    cell = Cell(spec, 4, 6).eval()
    x = torch.randn(2, 4, 5, 5)

    def convolved(block, features):
        weight = block[0].weight
        return (nn.functional.conv2d(features, weight, padding=weight.shape[-1] // 2) / (1 + 1e-5) ** 0.5).clamp(min=0)

    one = convolved(cell.operations["1"], convolved(cell.projections["1"], x))
    three = convolved(cell.operations["3"], nn.functional.max_pool2d(one, 3, 1, 1))
    torch.testing.assert_close(cell(x), three + convolved(cell.projections["4"], x))
    assert [cell.operations[v][0].kernel_size[0] for v in "13"] == [3, 1]
    assert [block[0].kernel_size[0] for block in cell.projections.values()] == [1, 1]


def test_isomorphic_cells_agree_and_others_do_not():
    rng = np.random.default_rng(2)
    for architecture in drawn(20, seed=2):
        canonical = SPACE.canonical(architecture)
        assert SPACE.canonical(canonical) == canonical
        spec = SPACE.parse(architecture)
        n = len(spec.ops)
        for _ in range(30):
            order = [0, *(rng.permutation(n - 2) + 1), n - 1]
            matrix = np.array(spec.matrix)[np.ix_(order, order)]
            if not np.tril(matrix).any():
                ops = ",".join(spec.ops[i] for i in order)
                relabelled = "/".join("".join(map(str, row)) for row in matrix) + " " + ops
                assert SPACE.canonical(relabelled) == canonical


@pytest.mark.parametrize(("vertices", "published"), [(2, 1), (3, 6), (4, 84)])
def test_the_number_of_different_cells_is_the_published_one(vertices, published):
    pairs = list(itertools.combinations(range(vertices), 2))
    found = set()
    for edges in itertools.product("01", repeat=len(pairs)):
        has = dict(zip(pairs, edges, strict=True))
        rows = "/".join("".join(has.get((i, j), "0") for j in range(vertices)) for i in range(vertices))
        for inner in itertools.product(OPS, repeat=vertices - 2):
            architecture = f"{rows} {','.join(('input', *inner, 'output'))}"
            if SPACE.validate(architecture) is None and len(SPACE.parse(architecture).ops) == vertices:
                found.add(SPACE.canonical(architecture))
    assert len(found) == published


def test_composes_what_the_genes_say():
    for architecture in [*drawn(20), THROUGH]:
        genes = SPACE.genes(architecture)
        assert len(genes) == 26
        assert SPACE.compose(lambda name, options, genes=genes: genes[name]) == architecture


def test_a_small_cell_has_the_genes_of_a_filled_up_one():
    small = "0111/0010/0001/0000 input,maxpool3x3,conv1x1-bn-relu,output"
    genes = SPACE.genes(small)
    filled = SPACE.compose(lambda name, options: genes[name])
    assert len(filled.split(" ")[0].split("/")) == 7
    assert SPACE.parse(filled) == SPACE.parse(small)
    assert SPACE.validate(SPACE.mutate(small, 0)) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", "write it like"),
        (None, "write it like"),
        (THROUGH.replace(" ", "  "), "write it like"),
        (THROUGH + "\n", "write it like"),
        (THROUGH.replace("0000001", "0000002"), "write it like"),
        ("0 input", "2 to 7"),
        ("01/00 input,maxpool3x3,output", "2 rows .* 3 operations"),
        ("011/001/00 input,maxpool3x3,output", r"3 rows of \[2, 3\] digits"),
        ("/".join(["00000000"] * 8) + " input" + ",maxpool3x3" * 6 + ",output", "2 to 7"),
        ("010/001/000 output,maxpool3x3,input", "begin with 'input'"),
        ("010/001/000 input,output,output", "no operation 'output'"),
        ("010/001/000 input,maxpool2x2,output", "Did you mean 'maxpool3x3'"),
        ("010/101/000 input,maxpool3x3,output", "row 1 has an edge to vertex 0"),
        ("010/011/000 input,maxpool3x3,output", "row 1 has an edge to vertex 1"),
        ("01111/00111/00011/00001/00000 input" + ",maxpool3x3" * 3 + ",output", "10 edges after pruning"),
    ],
)
def test_refuses_what_is_no_cell_and_says_why(wrong, message):
    with pytest.raises(InputError, match=message):
        SPACE.parse(wrong)


def test_a_cell_with_too_many_edges_has_no_genes():
    with pytest.raises(InputError, match="10 edges after pruning"):
        SPACE.genes("01111/00111/00011/00001/00000 input" + ",maxpool3x3" * 3 + ",output")


def test_nine_edges_are_allowed():
    assert len(SPACE.parse("01110/00111/00011/00001/00000 input" + ",maxpool3x3" * 3 + ",output").edges) == 9


def test_a_disconnected_cell_is_degenerate_and_has_no_network():
    assert "disconnected" in SPACE.validate(DISCONNECTED)
    assert SPACE.validate(THROUGH) is None
    for call in (SPACE.build, SPACE.cost):
        with pytest.raises(InputError, match="disconnected"):
            call(DISCONNECTED)


def test_samples_and_their_relatives_work():
    samples = drawn(30)
    assert len(set(samples)) == 30
    for seed, (first, second) in enumerate(itertools.pairwise(samples)):
        mutant, child = SPACE.mutate(first, seed), SPACE.crossover(first, second, seed)
        genes, changed, mixed = map(SPACE.genes, (first, mutant, child))
        assert sum(genes[name] != changed[name] for name in genes) == 1
        assert all(mixed[name] in (genes[name], SPACE.genes(second)[name]) for name in mixed)
        assert all(SPACE.validate(architecture) is None for architecture in (first, mutant, child))
    assert SPACE.sample(3) == SPACE.sample(3)


def test_draws_are_uniform_over_the_strings_that_work():
    # operations are drawn independently of whether a cell works, so each is a third of them
    ops = [op for architecture in drawn(300) for op in architecture.split(" ")[1].split(",")[1:-1]]
    shares = np.array([ops.count(op) for op in OPS]) / len(ops)
    assert np.abs(shares - 1 / 3).max() < 4 * np.sqrt(2 / 9 / len(ops))


def test_neighbours_are_one_edge_or_one_operation_away():
    own = SPACE.genes(INCEPTION)
    options = {name: (0, 1) if name.startswith("edge") else OPS for name in own}
    naive = set()
    for name, values in options.items():
        for value in set(values) - {own[name]}:
            changed = {**own, name: value}
            candidate = SPACE.compose(lambda name, _, changed=changed: changed[name])
            try:
                if SPACE.validate(candidate) is None:
                    naive.add(candidate)
            except InputError:
                pass
    neighbours = list(SPACE.neighbours(INCEPTION))
    assert len(neighbours) == len(set(neighbours))
    assert set(neighbours) == naive
    # nine edges are used up, so only removals and edges of unused vertices are left besides 5 × 2 operations
    assert 10 < len(neighbours) <= 31


def test_encoding_is_that_of_the_pruned_cell():
    code = SPACE.encode("0110/0000/0001/0000 input,maxpool3x3,conv1x1-bn-relu,output")
    expected = np.zeros(36)
    expected[[0, 10]] = 1  # edges 0-1 and 1-6
    expected[21 + OPS.index("conv1x1-bn-relu")] = 1
    np.testing.assert_array_equal(code, expected)
    np.testing.assert_array_equal(SPACE.encode(THROUGH), np.eye(36)[5])  # edge 0-6
    assert not SPACE.encode(DISCONNECTED).any()


@pytest.mark.parametrize("size", [32, (9, 14), (1, 8, 8), 4])
def test_runs_at_other_sizes_with_any_number_of_classes(size):
    net = SPACE.build(UNEVEN, 5, image_size=size)
    channels = size[0] if isinstance(size, tuple) and len(size) == 3 else 3
    sides = (size, size) if isinstance(size, int) else size[-2:]
    out = net(torch.randn(2, channels, *sides))
    assert out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_refuses_images_that_vanish():
    for call in (SPACE.build, SPACE.cost):
        with pytest.raises(InputError, match="4 or more"):
            call(UNEVEN, image_size=(8, 3))


def test_initialised_as_the_suite_does():
    net = SPACE.build(LARGE, seed=0)
    for conv in (module for module in net.modules() if isinstance(module, nn.Conv2d)):
        expected = np.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert conv.bias is None
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
    assert net.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not net.classifier.bias.any()


def test_the_same_seed_gives_the_same_weights():
    first = SPACE.build(FOUR, seed=1).state_dict()
    torch.rand(3)
    again, other = SPACE.build(FOUR, seed=1).state_dict(), SPACE.build(FOUR, seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


@pytest.mark.skipif("LSWAG_DATA" not in os.environ, reason="LSWAG_DATA is not set")
def test_the_published_table():
    with gzip.open(Path(os.environ["LSWAG_DATA"], "benchmarks", "nasbench101.csv.gz"), "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    for row in rows:
        assert SPACE.validate(row["arch"]) is None
        cost = SPACE.cost(row["arch"])
        for column in ("params", "flops"):
            assert float(row[column]) == float(f"{getattr(cost, column) / 1e6:.6g}"), (row["arch"], column)
    vertices = [len(SPACE.parse(row["arch"]).ops) for row in rows]
    assert [vertices.count(n) for n in range(2, 7)] == [37, 58, 78, 96, 31]
