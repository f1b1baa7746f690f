import csv
import gzip
import itertools
import math
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
from lswag_hooks.spaces.transnasbench import TransNASBenchMacro, TransNASBenchMicro
from lswag_hooks.spaces.transnasbench_batches import (
    brightness_levels,
    brightness_normals,
    image_statistics,
    jigsaw_tiles,
    permutations,
    stretch,
)
from lswag_hooks.spaces.transnasbench_network import BasicBlock, Cell, encoder
from lswag_hooks.spaces.transnasbench_tasks import DENSE, TASKS, generative_decoder, segmentation_decoder

MICRO, MACRO = TransNASBenchMicro(), TransNASBenchMacro()
TASK_NAMES = list(TASKS)

# encoder's params; params of class_object, class_scene, room_layout, jigsaw, autoencoder and normal, segmentsemantic;
# millions of flops as the published tables count them, of class_object, jigsaw, autoencoder, segmentsemantic
GOLDEN = [
    (MICRO, "64-41414-3_33_333", 41_411_616,
     (41_462_916, 41_443_935, 41_416_233, 46_020_616, 64_283_475, 52_435_793),
     (8488.086, 535.149, 10110.468, 9423.585)),
    (MICRO, "64-41414-1_02_333", 22_520_608,
     (22_571_908, 22_552_927, 22_525_225, 27_129_608, 45_392_467, 33_544_785),
     (4599.507, 292.113, 6221.890, 5535.007)),
    (MICRO, "64-41414-0_31_101", 6_317_856,
     (6_369_156, 6_350_175, 6_322_473, 10_926_856, 29_189_715, 17_342_033),
     (1404.169, 92.404, 3026.551, 2339.668)),
    (MACRO, "64-1234-basic", 3_400_224,
     (3_425_924, 3_416_415, 3_402_537, 5_705_224, 23_912_787, 12_065_105),
     (4014.376, 253.254, 9414.050, 6461.063)),
    (MACRO, "64-111114-basic", 1_284_896,
     (1_297_796, 1_293_023, 1_286_057, 2_437_896, 20_617_811, 8_770_129),
     (3666.367, 230.384, 23572.185, 11554.456)),
    (MACRO, "64-212413-basic", 30_775_072,
     (30_826_372, 30_807_391, 30_779_689, 35_384_072, 53_646_931, 41_799_249),
     (34025.835, 2131.325, 40029.389, 37076.402)),
]  # fmt: skip


@pytest.mark.parametrize(("space", "architecture", "encoding", "params", "flops"), GOLDEN)
def test_published_sizes(space, architecture, encoding, params, flops):
    object_, scene, room, jigsaw, pixels, labels = params
    costs = {task: space.cost(architecture, task=task) for task in TASK_NAMES}
    assert [costs[task].params for task in TASK_NAMES] == [object_, scene, room, jigsaw, pixels, pixels, labels]
    tasks = ("class_object", "jigsaw", "autoencoder", "segmentsemantic")
    assert [round(costs[task].flops / 1e6, 3) for task in tasks] == list(flops)
    assert costs["normal"] == costs["autoencoder"]
    with torch.device("meta"):
        assert sum(p.numel() for p in encoder(space.parse(architecture)).parameters()) == encoding


@pytest.mark.parametrize(("space", "architecture"), [(MICRO, "64-41414-0_31_121"), (MACRO, "64-2114-basic")])
@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_quick_cost_is_that_of_the_network(space, architecture, task):
    size = (3, 64, 96) if task in DENSE else 37
    expected = Space.counted(space, architecture, *space._asked(5, task, size))
    assert space.cost(architecture, 5, task=task, image_size=size) == expected


@pytest.mark.parametrize("space", [MICRO, MACRO])
def test_every_row_of_the_published_table(space):
    if "LSWAG_DATA" not in os.environ:
        pytest.skip("LSWAG_DATA is not set")
    file = Path(os.environ["LSWAG_DATA"]) / "benchmarks" / f"transbench101_{space.name.split('_')[1]}.csv.gz"
    with gzip.open(file, "rt") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["arch"] for row in rows} == set(space)
    checked = 0
    for row in rows:
        if row["params"]:
            cost = space.cost(row["arch"], task=row["task"])
            found = [f"{x / 1e6:.6g}" for x in (cost.params, cost.flops)]
            assert found == [f"{float(row[key]):.6g}" for key in ("params", "flops")], row
            checked += 1
    assert checked == (4 * 711 if space is MICRO else 3 * 725)
    constant = {row["arch"] for row in rows if row["zen"] and float(row["zen"]) == -1e8}
    assert constant == {architecture for architecture in space if space.degenerate(architecture)}


# ------------------------------------------------------------------ the spaces


def test_micro_size_and_disconnected_cells():
    assert MICRO.size == len(set(MICRO)) == 4096
    disconnected = 0
    for architecture in MICRO:
        a, b, c, d, e, f = (int(x) for x in architecture.split("-")[2].replace("_", ""))
        matrix = np.zeros((4, 4), dtype=int)
        matrix[0, 1], matrix[0, 2], matrix[1, 2] = a > 0, b > 0, c > 0
        matrix[0, 3], matrix[1, 3], matrix[2, 3] = d > 0, e > 0, f > 0
        paths = sum(np.linalg.matrix_power(matrix, length) for length in (1, 2, 3))[0, 3]
        assert (MICRO.degenerate(architecture) is None) == (paths > 0), architecture
        disconnected += paths == 0
    assert disconnected == 169


def test_macro_lists_what_the_rule_allows():
    expected = set()
    for length in (4, 5, 6):
        for digits in itertools.product((1, 2, 3, 4), repeat=length):
            size, width = 0, 0
            for digit in digits:
                size += {1: 0, 2: 0, 3: 1, 4: 1}[digit]
                width += {1: 0, 2: 1, 3: 0, 4: 1}[digit]
            if size in (1, 2, 3, 4) and width in (1, 2, 3):
                expected.add("64-" + "".join(map(str, digits)) + "-basic")
    listed = list(MACRO)
    assert set(listed) == expected
    assert len(listed) == MACRO.size == 3256


@pytest.mark.parametrize(
    ("space", "architecture", "said"),
    [
        (MICRO, "64-41414-4_33_333", "no micro"),
        (MICRO, "64-41414-3_33_33", "no micro"),
        (MICRO, "64-41411-3_33_333", "no micro"),
        (MICRO, "64-1234-basic", "no micro"),
        (MACRO, "64-41414-3_33_333", "no macro"),
        (MACRO, "64-124-basic", "no macro"),
        (MACRO, "64-1112345-basic", "no macro"),
        (MACRO, "64-1122-basic", "0 of its modules halve"),
        (MACRO, "64-33334-basic", "5 of its modules halve"),
        (MACRO, "64-1133-basic", "0 of its modules double"),
        (MACRO, "64-2224-basic", "4 of its modules double"),
    ],
)
def test_bad_strings_are_named(space, architecture, said):
    with pytest.raises(InputError, match=said):
        space.parse(architecture)


def test_digits_are_read_in_order():
    assert MICRO.genes("64-41414-3_21_012") == {
        "edge 0-1": 3,
        "edge 0-2": 2,
        "edge 1-2": 1,
        "edge 0-3": 0,
        "edge 1-3": 1,
        "edge 2-3": 2,
    }
    expected = {"modules": 5, "module 1": 2, "module 2": 1, "module 3": 4, "module 4": 3, "module 5": 1}
    assert MACRO.genes("64-21431-basic") == expected
    micro = MICRO.parse("64-41414-3_21_012")
    assert micro.blocks[:4] == [(64, 128, 2), (128, 128, 1), (128, 128, 1), (128, 128, 1)]
    assert (micro.channels, micro.halvings, len(micro.blocks)) == (512, 5, 10)
    macro = MACRO.parse("64-2134-basic")
    assert macro.blocks == [(64, 128, 1), (128, 128, 1), (128, 128, 1), (128, 128, 1), (128, 128, 2), (128, 128, 1),
                            (128, 256, 2), (256, 256, 1)]  # fmt: skip


@pytest.mark.parametrize("space", [MICRO, MACRO])
def test_genes_compose_what_they_came_from_and_codes_differ(space):
    drawn = {space.sample(seed) for seed in range(60)}
    for architecture in drawn:
        genes = space.genes(architecture)
        asked = []
        again = space.compose(lambda name, _, asked=asked, genes=genes: (asked.append(name), genes[name])[1])
        assert (again, asked) == (architecture, list(genes))
    codes = {tuple(space.encode(architecture)) for architecture in drawn}
    assert len(codes) == len(drawn) and {len(code) for code in codes} == {24}


def test_neighbours_of_a_micro_architecture():
    found = set(MICRO.neighbours("64-41414-3_33_333"))
    assert len(found) == 18
    near = set(MICRO.neighbours("64-41414-1_00_010"))  # one path: to lose either edge is to be disconnected
    assert len(near) == 18 - 2


def test_neighbours_of_a_macro_architecture_stay_in_the_space():
    own = MACRO.genes("64-1114-basic")
    found = list(MACRO.neighbours("64-1114-basic"))
    assert len(set(found)) == len(found)
    same_length = [n for n in found if MACRO.genes(n)["modules"] == 4]
    listed = [n for n in MACRO if len(n) == len("64-1114-basic")]
    differing = [n for n in listed if sum(MACRO.genes(n)[key] != own[key] for key in own) == 1]
    assert sorted(same_length) == sorted(differing)
    assert set(found) <= set(MACRO)
    assert sum(MACRO.genes(n)["modules"] == 5 for n in found) == 4  # one more module of any digit keeps to the rule


def test_sampling_obeys_the_rules():
    assert all(MACRO.validate(MACRO.sample(seed)) is None for seed in range(50))
    assert all(MICRO.validate(MICRO.sample(seed)) is None for seed in range(50))
    assert get_space("transnasbench-macro").name == "transnasbench_macro"
    assert next(iter(MICRO.tasks)) == "class_object"
    assert MICRO.tasks == {"class_object": 100, "class_scene": 63, "room_layout": 9, "jigsaw": 1000, "autoencoder": 3,
                           "normal": 3, "segmentsemantic": 17}  # fmt: skip


# ------------------------------------------------------------------ networks, against a second way


def norm(x, module):
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias)


def randomise_norms(module):
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
    return module.eval()


def reference_edge(digit, module, x, stride):
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    if digit == 1 and not convs:
        return x
    x = x.clamp_min(0)
    if digit == 1:
        branches = x[:, :, ::2, ::2], F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        return norm(torch.cat([F.conv2d(b, c.weight) for b, c in zip(branches, convs, strict=True)], 1), norms[0])
    kernel = {2: 1, 3: 3}[digit]
    assert convs[0].weight.shape[2:] == (kernel, kernel)
    return norm(F.conv2d(x, convs[0].weight, None, stride, kernel // 2), norms[0])


@pytest.mark.parametrize(("entering", "leaving", "stride"), [(4, 8, 2), (6, 6, 1)])
@pytest.mark.parametrize("digits", ["323123", "111111", "010203", "321000", "000100", "103021", "200013"])
def test_cells(digits, entering, leaving, stride):
    cell = randomise_norms(Cell(digits, entering, leaving, stride))
    x = torch.randn(2, entering, 7, 6)
    nodes = {0: x}
    order = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    for target in (1, 2, 3):
        total = torch.zeros(2, leaving, math.ceil(7 / stride), math.ceil(6 / stride))
        for (source, to), digit in zip(order, digits, strict=True):
            if to == target and digit != "0":
                module = cell.edges[f"{source}-{to}"]
                total = total + reference_edge(int(digit), module, nodes[source], stride if source == 0 else 1)
        nodes[target] = total
    torch.testing.assert_close(cell(x), nodes[3])


@pytest.mark.parametrize(("entering", "leaving", "stride"), [(4, 8, 2), (4, 8, 1), (4, 4, 2), (4, 4, 1)])
def test_residual_blocks(entering, leaving, stride):
    block = randomise_norms(BasicBlock(entering, leaving, stride))
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.randn(2, entering, 7, 6)
    main = norm(F.conv2d(x.clamp_min(0), convs[0].weight, None, stride, 1), norms[0])
    main = norm(F.conv2d(main.clamp_min(0), convs[1].weight, None, 1, 1), norms[1])
    short = x
    if stride != 1 or entering != leaving:
        short = norm(F.conv2d(x, convs[2].weight, None, stride), norms[2])
    assert len(convs) == 2 + (short is not x)
    torch.testing.assert_close(block(x), main + short)


def test_encoders_draw_kaiming_normal_by_fan_out():
    made = encoder(MACRO.parse("64-1114-basic"))
    wide = [m for m in made.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 30_000]
    assert len(wide) > 5
    for conv in wide:
        expected = math.sqrt(2 / (conv.out_channels * conv.kernel_size[0] ** 2))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert isinstance(made[0][1], nn.BatchNorm2d) and isinstance(made[0][2], nn.ReLU)


@pytest.mark.parametrize("ups", [3, 4, 5, 6])
def test_decoders_come_back_to_the_size(ups):
    with torch.device("meta"):
        x = torch.empty(1, 8, 1, 2)
        for decoder, outputs in ((generative_decoder(8, ups, 3), 3), (segmentation_decoder(8, ups, 17), 17)):
            assert decoder.eval()(x).shape == (1, outputs, 2**ups, 2 * 2**ups)
            layers = [m for m in decoder if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
            assert sum(isinstance(m, nn.ConvTranspose2d) for m in layers) == ups
            assert all(m.bias is not None for m in layers)
            assert len([m for m in decoder if isinstance(m, nn.BatchNorm2d)]) == len(layers) - 1


def test_layers_of_decoders():
    def described(decoder):
        kinds = {nn.Conv2d: "conv", nn.ConvTranspose2d: "up"}
        return [f"{kinds[type(m)]} {m.in_channels} {m.out_channels}" for m in decoder if type(m) in kinds]

    with torch.device("meta"):
        generative, segmentation = generative_decoder(512, 4, 3), segmentation_decoder(512, 4, 17)
    assert described(generative) == [
        "conv 512 1024", "conv 1024 1024", "conv 1024 512", "conv 512 512", "conv 512 256", "conv 256 128", "up 128 64",
        "conv 64 64", "up 64 32", "conv 32 32", "up 32 16", "conv 16 32", "up 32 16", "conv 16 3",
    ]  # fmt: skip
    assert isinstance(generative[-1], nn.Tanh)
    assert described(segmentation) == [
        "conv 512 1024", "conv 1024 512", "conv 512 256", "up 256 128", "up 128 64", "up 64 32", "up 32 32",
        "conv 32 17",
    ]  # fmt: skip
    assert isinstance(segmentation[-1], nn.Conv2d)
    slopes = {m.negative_slope for m in [*generative, *segmentation] if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.2}


def test_heads_see_the_encoder():
    images = torch.randn(2, 3, 32, 24)
    net = MACRO.build("64-1114-basic", 5, task="class_scene", image_size=32).eval()
    linear = net.head[-1]
    torch.testing.assert_close(net(images), linear(net.encoder(images).mean((2, 3))))

    tiles = torch.randn(2, 9, 3, 16, 16)
    net = MACRO.build("64-1114-basic", task="jigsaw").eval()
    features = [net.encoder(tiles[:, place]).mean((2, 3)) for place in range(9)]
    torch.testing.assert_close(net(tiles), net.head[-1](torch.cat(features, 1)))
    assert net(tiles).shape == (2, 1000)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_outputs_of_small_images(task):
    net = MICRO.build("64-41414-0_21_012", task=task, image_size=32, seed=0).eval()
    images = torch.randn(2, 9, 3, 20, 20) if task == "jigsaw" else torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        out = net(images)
    assert out.shape == ((2, TASKS[task], 32, 64) if task in DENSE else (2, TASKS[task]))
    if task in ("autoencoder", "normal"):
        assert out.abs().max() <= 1


@pytest.mark.parametrize("task", DENSE)
def test_sizes_that_a_decoder_cannot_come_back_to(task):
    for call in (MICRO.build, MICRO.cost):
        with pytest.raises(InputError, match="multiples of 32"):
            call("64-41414-0_21_012", task=task, image_size=(64, 48))
    net = MACRO.build("64-1114-basic", task=task, image_size=32)
    with pytest.raises(InputError, match="multiples of 8"):
        net(torch.zeros(2, 3, 32, 20))


def test_jigsaw_wants_nine_tiles():
    net = MACRO.build("64-1114-basic", task="jigsaw")
    with pytest.raises(InputError, match=r"\(N, 9, 3, H, W\)"):
        net(torch.zeros(2, 3, 32, 32))


# ------------------------------------------------------------------ losses


def test_losses_against_loops():
    logits, soft = torch.randn(3, 4).double(), torch.rand(3, 4).double().softmax(1)
    expected = 0.0
    for row, target in zip(logits.tolist(), soft.tolist(), strict=True):
        total = sum(math.exp(x) for x in row)
        expected -= sum(t * math.log(math.exp(x) / total + 1e-5) for x, t in zip(row, target, strict=True)) / 3
    for task in ("class_object", "class_scene"):
        assert MICRO.objective(task)(logits, soft).item() == pytest.approx(expected)
    assert MICRO.objective()(logits, soft).item() == pytest.approx(expected)

    squares = [(x - t) ** 2 for x, t in zip(logits.flatten().tolist(), soft.flatten().tolist(), strict=True)]
    assert MICRO.objective("room_layout")(logits, soft).item() == pytest.approx(sum(squares) / 12)
    for task in ("autoencoder", "normal"):
        assert MICRO.objective(task)(logits, soft).item() == pytest.approx(sum(x**0.5 for x in squares) / 12)

    labels = torch.tensor([2, 0, 3])
    chosen = [-math.log(math.exp(row[k]) / sum(map(math.exp, row)))
              for row, k in zip(logits.tolist(), labels.tolist(), strict=True)]  # fmt: skip
    assert MICRO.objective("jigsaw")(logits, labels).item() == pytest.approx(sum(chosen) / 3)
    maps = logits[:, :, None, None].expand(3, 4, 2, 5)
    pixels = labels[:, None, None].expand(3, 2, 5)
    assert MICRO.objective("segmentsemantic")(maps, pixels).item() == pytest.approx(sum(chosen) / 3)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_losses_are_means_over_samples(task):
    images = Batch.builtin("digits", size=32, samples=3)
    batch = MICRO.batch(images, task)
    shape = (3, TASKS[task], 32, 32) if task in DENSE else (3, TASKS[task])
    outputs = torch.randn(shape)
    loss = MICRO.objective(task)
    each = [loss(outputs[i : i + 1], batch.targets[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(outputs, batch.targets), torch.stack(each).mean())
    assert getattr(loss, "reduction", "mean") == "mean"


def test_a_loss_says_what_targets_it_wants():
    with pytest.raises(InputError, match="batch"):
        MICRO.objective("class_object")(torch.zeros(2, 100), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="batch"):
        MICRO.objective("normal")(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))
    with pytest.raises(InputError, match="no task"):
        MICRO.objective("class_objekt")


# ------------------------------------------------------------------ batches


def test_permutations_are_far_apart():
    orders = permutations()
    assert orders.shape == (1000, 9)
    assert (np.sort(orders, axis=1) == np.arange(9)).all()
    distances = [int((a != b).sum()) for a, b in itertools.combinations(orders[::7], 2)]
    assert min(distances) >= 5
    # of all pairs: no 1000 orders can be further apart on average than where every value is equally often everywhere
    same = sum(math.comb(n, 2) for place in orders.T for n in np.bincount(place, minlength=9))
    best = 81 * (1000 / 9) * (1000 / 9 - 1) / 2
    assert 9 - same / math.comb(1000, 2) == pytest.approx(9 - best / math.comb(1000, 2), abs=1e-3)


@pytest.mark.parametrize("sides", [(96, 96), (256, 256), (96, 120)])
def test_jigsaw_tiles_are_fields_in_the_order_of_the_label(sides):
    fields = torch.arange(9.0).view(1, 1, 3, 3)
    images = F.interpolate(fields, size=sides, mode="nearest").expand(5, 3, *sides).contiguous()
    tiles, labels = jigsaw_tiles(images, seed=3)
    side = min(sides) // 4
    assert tiles.shape == (5, 9, 3, side, side)
    middle = tiles[:, :, 0, side // 2, side // 2].round().long()
    assert torch.equal(middle, torch.from_numpy(permutations())[labels])
    assert labels.dtype == torch.int64 and labels.unique().numel() > 1


def test_jigsaw_crops_the_middle_of_each_field():
    # brightness is the column: a field of 85 pixels begins at 5 % of the image and spans 30 %
    images = torch.linspace(0, 1, 256).expand(2, 3, 256, 256).contiguous()
    tiles, labels = jigsaw_tiles(images, seed=0)
    order = torch.from_numpy(permutations())[labels]
    for place in range(9):
        column = order[0, place].item() % 3
        found = tiles[0, place, 0, 0]
        assert found.mean().item() == pytest.approx(0.05 + 0.3 * (column + 0.5), abs=0.01)
        assert (found[-1] - found[0]).item() == pytest.approx(0.3 * 63 / 85, abs=0.01)
    with pytest.raises(InputError, match="16 or more"):
        jigsaw_tiles(torch.zeros(2, 3, 12, 40), 0)


def test_the_seed_alone_decides():
    images = Batch.builtin("digits", size=32, samples=8)
    state = torch.get_rng_state()
    first, again, other = (MICRO.batch(images, "jigsaw", seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(state, torch.get_rng_state())


def test_soft_labels():
    images = Batch(torch.rand(3, 3, 8, 8), torch.tensor([2, 65, 130]))
    targets = MICRO.batch(images, "class_scene").targets
    assert targets.argmax(1).tolist() == [2, 2, 4]
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    assert targets[0, 2].item() == pytest.approx(0.9 + 0.1 / 63)
    assert targets[0, 0].item() == pytest.approx(0.1 / 63)
    assert torch.equal(MICRO.batch(images).inputs, images.inputs)
    assert MICRO.batch(images).targets.shape == (3, 100)


def test_images_are_stretched_whatever_their_normalisation():
    images = torch.rand(3, 3, 5, 5)
    stretched = stretch(images)
    assert stretched.amin((1, 2, 3)).tolist() == [-1] * 3 and stretched.amax((1, 2, 3)).tolist() == [1] * 3
    torch.testing.assert_close(stretch(7 * images - 2), stretched)
    assert torch.equal(stretch(torch.full((2, 3, 4, 4), 5.0)), torch.zeros(2, 3, 4, 4))
    batch = MICRO.batch(Batch(images, torch.arange(3)), "autoencoder")
    assert torch.equal(batch.inputs, stretched) and torch.equal(batch.targets, stretched)


def test_normals_of_a_slope():
    slope = torch.linspace(-1, 1, 9).expand(1, 3, 6, 9).contiguous()
    normals = brightness_normals(slope)
    expected = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 6, 9) / math.sqrt(2)
    torch.testing.assert_close(normals, expected)
    downwards = brightness_normals(slope.mT.contiguous())
    torch.testing.assert_close(downwards[:, 1], -downwards[:, 2])
    uneven = brightness_normals(torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(uneven.square().sum(1), torch.ones(2, 8, 8))
    flat = brightness_normals(torch.zeros(2, 3, 8, 8))
    assert torch.equal(flat[:, 2], torch.ones(2, 8, 8))


def test_levels_hold_equally_many_pixels():
    images = torch.randperm(17 * 34).float().view(1, 1, 17, 34).expand(2, 3, 17, 34)
    levels = brightness_levels(images, 17)
    assert levels.dtype == torch.int64 and levels.shape == (2, 17, 34)
    assert torch.bincount(levels[0].flatten()).tolist() == [34] * 17
    assert torch.equal(levels[0], (images[0, 0] // 34).long())
    assert brightness_levels(torch.zeros(1, 3, 4, 4), 17).unique().numel() == 1


def test_nine_statistics():
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0], images[0, 1, :, 2:] = 3.0, 2.0
    found = image_statistics(images)
    assert found.shape == (2, 9)
    assert found[0, :6].tolist() == pytest.approx([0, 3, 1, 0, 1, 0])
    assert found[0, 6].item() == pytest.approx(2 / 3, abs=1e-4)  # all of the brightness is in columns at 1/3 and 1
    assert found[0, 7].item() == pytest.approx(0, abs=1e-4)
    assert found[0, 8].item() == pytest.approx(0, abs=1e-6)
    assert found[1].tolist() == pytest.approx([0] * 9, abs=1e-6)
    bright = torch.zeros(1, 3, 8, 8)
    bright[:, :, 2:6, 2:6] = 1
    assert image_statistics(bright)[0, 8].item() == pytest.approx(0.75)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_batches_have_the_form_of_their_task(task):
    images = Batch.builtin("digits", size=(32, 64), samples=4)
    batch = MICRO.batch(images, task)
    assert batch.inputs.shape == ((4, 9, 3, 8, 8) if task == "jigsaw" else (4, 3, 32, 64))
    expected = {"jigsaw": (4,), "segmentsemantic": (4, 32, 64), "normal": (4, 3, 32, 64), "autoencoder": (4, 3, 32, 64)}
    assert batch.targets.shape == expected.get(task, (4, TASKS[task]))
    if not batch.targets.is_floating_point():
        assert batch.targets.min() >= 0 and batch.targets.max() < TASKS[task]
    # a sample's form depends on nothing but itself
    if task != "jigsaw":
        torch.testing.assert_close(MICRO.batch(images[:2], task).targets, batch.targets[:2])
    assert task in batch.name


def test_what_no_batch_can_be_made_from():
    with pytest.raises(InputError, match=r"images of shape \(N, 3, H, W\)"):
        MICRO.batch(Batch(torch.rand(4, 12), torch.arange(4)), "normal")
    with pytest.raises(InputError, match="class numbers"):
        MICRO.batch(Batch(torch.rand(4, 3, 8, 8)), "class_object")
    with pytest.raises(InputError, match="3 channels"):
        MICRO.batch(Batch(torch.rand(4, 1, 32, 32), torch.arange(4)), "segmentsemantic")
    with pytest.raises(InputError, match="seed=-1"):
        MICRO.batch(Batch.builtin("digits", size=32, samples=4), "jigsaw", seed=-1)


# ------------------------------------------------------------------ scoring


@pytest.mark.parametrize("task", TASK_NAMES)
@pytest.mark.parametrize(
    ("space", "architecture", "side"), [(MICRO, "64-41414-0_21_012", 64), (MACRO, "64-1114-basic", 32)]
)
def test_every_task_can_be_scored(space, architecture, side, task):
    batch = space.batch(Batch.builtin("digits", size=side, samples=2), task, seed=0)
    net = space.build(architecture, task=task, image_size=tuple(batch.inputs.shape[-3:]), seed=0)
    result = score(net, batch, proxies="lswag,zico", loss=space.objective(task))
    assert all(np.isfinite(result[name]) and result[name] != 0 for name in ("lswag", "zico"))
    dead = [name for name in result.coverage.uncovered if not name.startswith("encoder")]
    assert not dead
    assert result.coverage.weight_share > 0.9
