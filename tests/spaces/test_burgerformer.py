import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lswag_hooks as lh
from lswag_hooks.errors import InputError
from lswag_hooks.spaces import get_space
from lswag_hooks.spaces.burgerformer import EXAMPLE, NAMED, BurgerFormer
from lswag_hooks.spaces.burgerformer_network import SKIP, BurgerNetwork, Layer, Stage
from lswag_hooks.spaces.counting import count

SPACE = BurgerFormer()
MINIMUM = " / ".join(f"1,{width},1|skip|skip|skip" for width in (32, 64, 128, 128))
PUBLISHED = [  # parameters, flops as the published search estimates them, multiply-accumulates
    (NAMED["BurgerFormer-T"], 9_922_064, 1_002_870_904, 983_080_960),
    (NAMED["BurgerFormer-S"], 14_045_512, 2_087_157_420, 2_048_545_792),
    (NAMED["BurgerFormer-B"], 26_207_776, 3_852_988_648, 3_662_105_600 + 154_893_312),
    (NAMED["BurgerFormer-L"], 36_052_256, 6_537_304_296, 6_226_851_840 + 206_524_416),
    (MINIMUM, 465_472, 221_154_280, 216_988_672),
]


def counted(model, *shape):
    return count(model.eval(), torch.empty(1, *shape, device="meta"))


@pytest.mark.parametrize(("architecture", "params", "flops", "macs"), PUBLISHED)
def test_published_networks_have_their_published_cost(architecture, params, flops, macs):
    cost = SPACE.cost(architecture)
    assert (cost.params, cost.flops, cost.macs) == (params, flops, macs)
    with torch.device("meta"):
        built = SPACE.build(architecture)
    whole = counted(built, 3, 224, 224)
    assert (whole.params, whole.macs) == (params, macs)
    assert sum(p.numel() for p in built.parameters()) == params


@pytest.mark.parametrize("seed", range(6))
def test_cost_equals_the_network_for_any_architecture_size_and_head(seed):
    architecture, shape = SPACE.sample(seed), [(3, 64, 96), (1, 33, 70), (3, 224, 224)][seed % 3]
    with torch.device("meta"):
        built = SPACE.build(architecture, 7, image_size=shape)
    whole, cost = counted(built, *shape), SPACE.cost(architecture, 7, image_size=shape)
    assert (whole.params, whole.macs) == (cost.params, cost.macs)


def test_layers_of_other_tasks():
    assert SPACE.cost(MINIMUM, task="cifar10").params == 465_472 - 990 * 129
    assert SPACE.build(MINIMUM, task="cifar100", image_size=32).head.out_features == 100


# -------------------------------------------------------------- the network, against one written with functions alone

NORMED = {
    "BN": lambda x, layer: F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias),
    "GN": lambda x, layer: standardised(x, (1, 2, 3), 1e-5, layer),
    "LN": lambda x, layer: standardised(x, (1,), 1e-6, layer),
}
ACTIVE = {"skip": lambda x: x, "relu6": lambda x: x.clamp(0, 6), "gelu": F.gelu, "silu": lambda x: x * x.sigmoid()}


def standardised(x, dims, eps, layer):
    centred = x - x.mean(dims, keepdim=True)
    scaled = centred / (centred.pow(2).mean(dims, keepdim=True) + eps).sqrt()
    return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]


def naive_op(x, op, module, heads):
    n, channels = x.shape[:2]
    if op == "dwise_3x3":
        return F.conv2d(x, module.weight, module.bias, padding=1, groups=channels)
    if op == "conv_1x1":
        return torch.einsum("ncij,dc->ndij", x, module.weight[:, :, 0, 0]) + module.bias[:, None, None]
    if op == "avgpool":
        ones = torch.ones(channels, 1, 3, 3, dtype=x.dtype)
        inside = F.conv2d(torch.ones_like(x), ones, padding=1, groups=channels)
        return F.conv2d(x, ones, padding=1, groups=channels) / inside - x
    if op == "spatial_mlp":
        return (x.flatten(2) @ module.mix.weight.T + module.mix.bias).view_as(x)
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (t.view(n, -1, heads, channels // heads).transpose(1, 2) for t in
               (tokens @ module.qkv.weight.T).chunk(3, -1))  # fmt: skip
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, channels)
    return (out @ module.proj.weight.T + module.proj.bias).transpose(1, 2).view_as(x)


def naive_chain(x, layer, modules, heads):
    modules = iter(modules)
    x = x if layer.before == "skip" else NORMED[layer.before](x, next(modules))
    x = naive_op(x, layer.op, next(modules), heads)
    x = x if layer.behind == "skip" else NORMED[layer.behind](x, next(modules))
    return ACTIVE[layer.act](x)


def naive_burger(x, burger, stage, heads):
    layers = iter(burger.layers)
    for position, layer in enumerate(stage.layers):
        if position != 1 and layer == SKIP:
            continue
        scaled = next(layers)
        if position == 1:
            group, enter, _, inner, leave = scaled.inner
            y = F.gelu(F.conv2d(NORMED["GN"](x, group), enter.weight, enter.bias))
            y = y if layer == SKIP else naive_chain(y, layer, inner, heads)
            y = F.conv2d(y, leave.weight, leave.bias)
        else:
            y = naive_chain(x, layer, scaled.inner, heads)
        x = x + scaled.scale * y
    assert next(layers, None) is None
    return x


def naive_forward(net, stages, images):
    def conv_norm_relu(x, block, stride=1):
        return NORMED["BN"](F.conv2d(x, block[0].weight, stride=stride, padding=1), block[1]).relu()

    first = conv_norm_relu(images, net.stem.first, 2)
    first = first + conv_norm_relu(conv_norm_relu(first, net.stem.residual[0]), net.stem.residual[1])
    x = F.conv2d(first, net.stem.last.weight, net.stem.last.bias, stride=2, padding=1)
    for i, stage in enumerate(stages):
        if i:
            conv, group = net.downs[i - 1]
            x = NORMED["GN"](F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1), group)
        for burger in net.stages[i]:
            x = naive_burger(x, burger, stage, (0, 0, 4, 8)[i])
        assert len(net.stages[i]) == stage.depth
    return NORMED["GN"](x, net.norm).mean((2, 3)) @ net.head.weight.T + net.head.bias


@pytest.mark.parametrize(
    "stages",
    [
        (
            Stage(2, 32, 2, (Layer("BN", "dwise_3x3", "skip", "relu6"), SKIP, SKIP)),
            Stage(1, 64, 1, (SKIP, Layer("skip", "dwise_3x3", "LN", "silu"), Layer("skip", "avgpool", "GN", "gelu"))),
            Stage(2, 32, 4, (Layer("LN", "self_atten", "skip", "skip"), SKIP, Layer("GN", "spatial_mlp", act="silu"))),
            Stage(1, 64, 2, (SKIP, Layer("BN", "dwise_3x3"), Layer("skip", "self_atten", "BN", "relu6"))),
        ),
        (
            Stage(1, 32, 1, (Layer("skip", "conv_1x1", "LN", "gelu"), Layer("GN", "dwise_3x3", "skip", "gelu"), SKIP)),
            Stage(2, 64, 2, (Layer("GN", "conv_1x1"), SKIP, Layer("skip", "dwise_3x3", "BN", "silu"))),
            Stage(1, 32, 6, (SKIP, SKIP, Layer("skip", "spatial_mlp", "LN", "relu6"))),
            Stage(2, 64, 1, (Layer("skip", "spatial_mlp", "GN"), SKIP, Layer("LN", "avgpool"))),
        ),
    ],
)
def test_network_is_what_the_paper_describes(stages):
    torch.manual_seed(0)
    net = BurgerNetwork(stages, 5, (64, 96)).double().eval()
    for tensor in (*net.parameters(), *net.buffers()):  # so that neither norms nor scales are trivial
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 0.4)
            tensor.data *= torch.where(torch.rand_like(tensor) < 0.5, -1, 1) if tensor.requires_grad else 1
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(images), naive_forward(net, stages, images), rtol=1e-8, atol=1e-8)


def test_features_of_a_detector():
    space = BurgerFormer(spatial_mlp=False)
    with torch.device("meta"):
        backbone = space.network(NAMED["BurgerFormer-B"], out_norms=True)
        maps = backbone.features(torch.empty(1, 3, 256, 320))
    assert sum(p.numel() for p in backbone.parameters()) == 25_695_864
    assert [tuple(m.shape) for m in maps] == [(1, 96, 64, 80), (1, 128, 32, 40), (1, 320, 16, 20), (1, 512, 8, 10)]

    backbone, classifier = space.network(MINIMUM, out_norms=True).eval(), space.network(MINIMUM).eval()
    found = backbone.load_state_dict(classifier.state_dict(), strict=False)
    assert len(found.missing_keys) == 8 and all(name.startswith("out_norms.") for name in found.missing_keys)
    assert {name.split(".")[0] for name in found.unexpected_keys} == {"norm", "head"}
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for normed, plain in zip(backbone.features(images), classifier.features(images), strict=True):
            torch.testing.assert_close(normed, F.group_norm(plain, 1))


def test_without_head_the_mean_of_the_last_map_comes_out():
    net = SPACE.network(MINIMUM, image_size=64, num_classes=0).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(images), net.norm(net.features(images)[-1]).mean((2, 3)))
    assert sum(p.numel() for p in net.parameters()) == 465_472 - 129_000


def test_options_reach_the_network():
    net = SPACE.network("2" + MINIMUM[1:], image_size=32, drop_path=0.2, layer_scale=1e-6)
    rates = [getattr(burger.layers[0].drop_path, "drop_prob", 0) for stage in net.stages for burger in stage]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    scales = [scale for name, scale in net.named_parameters() if name.endswith(".scale")]
    assert len(scales) == 5 and all((scale == 1e-6).all() for scale in scales)
    default = SPACE.build(MINIMUM, image_size=32).stages[0][0].layers[0].scale
    assert (default == 1e-5).all()
    assert SPACE.build(NAMED["BurgerFormer-B"], image_size=32).head.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_spatial_mlp_is_bound_to_its_size():
    net = SPACE.build(EXAMPLE, 10, image_size=64)
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    with pytest.raises(InputError, match="spatial_mlp=False"):
        net(torch.randn(2, 3, 96, 64))
    with pytest.raises(InputError, match="without spatial_mlp"):
        BurgerFormer(spatial_mlp=False).parse(EXAMPLE)


# -------------------------------------------------------------- the space


def test_sizes_and_options():
    assert [len(SPACE.options(i, j)) for i in range(4) for j in range(3)] == [73, 25, 73] * 2 + [121, 25, 121] * 2
    assert SPACE.size == (48 * 25 * 73**2) ** 2 * (128 * 25 * 121**2) * (64 * 25 * 121**2)
    assert SPACE.size == pytest.approx(4.5e28, rel=0.01)
    assert BurgerFormer(spatial_mlp=False).size == (48 * 25 * 73**2) ** 2 * (128 * 25 * 97**2) * (64 * 25 * 97**2)


def test_space_is_consistent():
    rng = np.random.default_rng(0)
    vectors = set()
    for _ in range(40):
        architecture = SPACE.sample(rng)
        own, other = SPACE.genes(architecture), SPACE.sample(rng)
        assert SPACE.compose(lambda name, options, own=own: options[options.index(own[name])]) == architecture
        SPACE.parse(SPACE.mutate(architecture, rng))
        crossed = SPACE.genes(SPACE.crossover(architecture, other, rng))
        assert all(value in (own[name], SPACE.genes(other)[name]) for name, value in crossed.items())
        vector = SPACE.encode(architecture)
        assert vector.shape == (228,)
        vectors.add(tuple(vector))
    assert len(vectors) == 40
    assert get_space("burgerformer").parse(EXAMPLE) == SPACE.parse(EXAMPLE)


def test_parse_reads_every_field():
    first, second, third, fourth = SPACE.parse(EXAMPLE)
    assert first == Stage(
        2, 32, 4, (SKIP, Layer("GN", "dwise_3x3", "skip", "gelu"), Layer("skip", "avgpool", "LN", "silu"))
    )
    assert (second.depth, second.width, second.ratio) == (4, 96, 1)
    assert third.layers[2] == Layer("GN", "spatial_mlp", "skip", "skip")
    assert fourth.layers == (SKIP, Layer("skip", "dwise_3x3", "LN", "skip"), SKIP)


def test_encoding_of_a_layer():
    vector = SPACE.encode(EXAMPLE)[57 * 2 :][:57]  # stage 3: 4,192,4|skip-LN-avgpool-skip-silu|skip|...
    assert vector[:3].tolist() == [4, 192, 4]
    top, meat = vector[3:21].tolist(), vector[21:39].tolist()
    assert top == [*(0, 0, 0, 1), *(0, 0, 0, 1, 0, 0), *(1, 0, 0, 0), *(0, 0, 0, 1)]
    assert meat == [*(1, 0, 0, 0), *(1, 0, 0, 0, 0, 0), *(1, 0, 0, 0), *(1, 0, 0, 0)]


def test_sampling_is_that_of_the_published_search():
    rng = np.random.default_rng(1)
    drawn = [SPACE.sample(rng) for _ in range(2000)]
    params = np.array([SPACE.cost(architecture).params for architecture in drawn]) / 1e6
    assert np.percentile(params, [50, 95]) == pytest.approx([5.2, 14.5], rel=0.06)
    tops = Counter(SPACE.parse(architecture)[2].layers[0].op for architecture in drawn)
    assert len(tops) == 6 and all(seen / 2000 == pytest.approx(1 / 6, abs=0.04) for seen in tops.values())


def test_mutation_changes_at_the_published_rate():
    rng = np.random.default_rng(0)
    own = SPACE.genes(EXAMPLE)
    children = [SPACE.genes(SPACE.mutate(EXAMPLE, rng)) for _ in range(800)]
    # 0.3 times the chance that a draw differs
    for name, differs in {"depth 3": 7 / 8, "width 1": 2 / 3, "ratio 2": 3 / 4, "layer 1.1": 3 / 4}.items():
        changed = np.mean([child[name] != own[name] for child in children])
        assert changed == pytest.approx(0.3 * differs, abs=0.05), name


def test_limit_of_parameters_holds_in_sampling_mutation_and_crossover():
    space, rng = BurgerFormer(max_params=3_000_000), np.random.default_rng(0)
    reason = space.validate(NAMED["BurgerFormer-B"])
    assert "26,207,776 parameters are more than the limit of 3,000,000" in reason
    assert SPACE.validate(NAMED["BurgerFormer-B"]) is None and space.validate(MINIMUM) is None
    for _ in range(8):
        first, second = space.sample(rng), space.sample(rng)
        for architecture in (first, second, space.mutate(first, rng), space.crossover(first, second, rng)):
            assert SPACE.cost(architecture).params <= 3_000_000


def test_a_space_without_spatial_mlp_never_draws_it():
    space, rng = BurgerFormer(spatial_mlp=False), np.random.default_rng(0)
    drawn = [space.mutate(space.sample(rng), rng) for _ in range(60)]
    assert any("self_atten" in architecture for architecture in drawn)
    assert not any("spatial_mlp" in architecture for architecture in drawn)


def test_descriptor_of_the_published_code():
    layers = [
        ("skip-skip-skip-skip-skip", "skip-GN-dwise_3x3-skip-gelu", "skip-skip-avgpool-LN-silu"),
        ("skip-skip-dwise_3x3-LN-silu", "skip-LN-dwise_3x3-skip-relu6", "skip-skip-dwise_3x3-BN-relu6"),
        ("skip-LN-avgpool-skip-silu", "skip-skip-skip-skip-skip", "skip-GN-spatial_mlp-skip-skip"),
        ("skip-skip-skip-skip-skip", "skip-skip-dwise_3x3-LN-skip", "skip-skip-skip-skip-skip"),
    ]
    macros = [(2, 32, 4), (4, 96, 1), (4, 192, 4), (4, 384, 6)]
    descriptor = {
        f"stage-{i}": {
            "macro": dict(zip(("depth", "width", "ratio"), macro, strict=True)),
            "meso": {"1": meso[0], "2": meso[1], "3": meso[2], "0->1": "none"},
        }
        for i, macro, meso in zip((1, 2, 3, 4), macros, layers, strict=True)
    }
    assert SPACE.from_descriptor(descriptor) == EXAMPLE
    del descriptor["stage-2"]["meso"]["3"]
    with pytest.raises(InputError, match="no '3'"):
        SPACE.from_descriptor(descriptor)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" / 4,96", "/4,96", "four stages"),
        ("2,32,4|", "2,32|", "stage 1: '2,32.*depth,width,ratio"),
        ("2,32,4|skip|", "2,32,4|", "depth,width,ratio"),
        ("2,32,4", "02,32,4", "depth,width,ratio"),
        ("2,32,4", "5,32,4", "no depth 5"),
        ("4,192,4", "4,200,4", "stage 3: there is no width 200, only 128, 192, 256, 320"),
        ("2,32,4", "2,32,3", "no ratio 3"),
        ("skip-skip-avgpool-LN-silu", "skip-skip-self_atten-LN-silu", "is no layer 3"),
        ("skip-LN-dwise_3x3-skip-relu6", "skip-LN-conv_1x1-skip-relu6", "is no layer 2"),
        ("skip-GN-dwise_3x3-skip-gelu", "skip-GN-dwise_3x3-GN-gelu", "the other 'skip'"),
        ("skip-GN-dwise_3x3-skip-gelu", "skip-skip-dwise_3x3-skip-gelu", "the other 'skip'"),
        ("skip-GN-dwise_3x3-skip-gelu", "gelu-GN-dwise_3x3-skip-gelu", "Did you mean 'skip-GN-dwise_3x3-skip-gelu'"),
        ("|skip|", "|skip-skip-skip-skip-skip|", "A layer is 'skip'"),
    ],
)
def test_what_is_no_architecture_is_refused(old, new, message):
    assert old in EXAMPLE
    with pytest.raises(InputError, match=message):
        SPACE.parse(EXAMPLE.replace(old, new, 1))


@pytest.mark.parametrize("architecture", [MINIMUM, EXAMPLE], ids=["minimum", "tiny"])
def test_scores_cover_every_weight(architecture):
    torch.manual_seed(0)
    batch = lh.Batch(torch.randn(4, 3, 64, 64), torch.arange(4))
    result = lh.score(SPACE.build(architecture, 4, image_size=64), batch, proxies=["lswag", "zico"])
    assert result.coverage.uncovered == {} and result.coverage.unplaced == {}
    assert result.coverage.weight_share == result.coverage.activation_share == 1.0
    assert result.coverage.activations["relu"] == 3
    assert math.isfinite(result["lswag"]) and math.isfinite(result["zico"])
