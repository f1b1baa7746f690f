"""What `score` gives, against plain loops in float64, and what it refuses."""

import json
import math
import re
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lswag_hooks import LSWAG, Batch, InputError, LSWAGRobust, RegSwap, UnsupportedError, ZiCo, list_proxies, score
from lswag_hooks.objective import resolve_objective
from lswag_hooks.observe import Settings, observe
from lswag_hooks.proxies import Backbone, resolve_proxies

N, CLASSES = 12, 4


def cnn(norm=False, double=True):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False), nn.GELU()]
    if norm:
        layers.insert(1, nn.BatchNorm2d(6))
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 10), nn.ReLU(), nn.Linear(10, CLASSES))
    return net.double() if double else net


def make_batch(samples=N, dtype=torch.float64, shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return Batch(x, torch.arange(samples) % CLASSES)


def gradients(net, batch, size=1):
    """Gradients of pieces of the batch in evaluation mode: parameter -> (pieces, *shape)."""
    net.eval()
    names, parameters = zip(*net.named_parameters(), strict=True)
    rows = []
    for x, y in zip(batch.inputs.split(size), batch.targets.split(size), strict=True):
        rows.append(torch.autograd.grad(F.cross_entropy(net(x), y), parameters))
    net.train()
    return {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def inverse(g):
    """Sum over weights of the inverse deviation of |g|; those of no deviation left out."""
    total = 0.0
    for column in g.abs().flatten(1).T:
        sigma = math.sqrt(float(((column - column.mean()) ** 2).mean()))
        total += 1 / sigma if not torch.equal(column, column[:1].expand_as(column)) else 0.0
    return total


def lambdas_by_loop(net, batch, size=1, biases=False):
    found = gradients(net, batch, size)
    values = []
    for name, g in found.items():
        if not name.endswith("weight") or g.dim() < 3:
            continue
        total = inverse(g)
        bias = name.removesuffix("weight") + "bias"
        if biases and bias in found:
            total += inverse(found[bias])
        values.append(math.log(total))
    return values


def psis_by_loop(net, batch):
    """Distinct patterns of every activation, in evaluation mode."""
    counts, x = [], batch.inputs
    net.eval()
    with torch.no_grad():
        for layer in net:
            x = layer(x)
            if isinstance(layer, (nn.ReLU, nn.GELU)):
                counts.append(len({tuple(column.tolist()) for column in (x.flatten(1) > 0).T}))
    net.train()
    return counts


def tenth(index, count):
    return (10 * index) // count


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("interval", [None, (0, 4), (7, 9), (5, 5), (2, 2)])
@pytest.mark.parametrize("pairing", ["nearest", "percentile", "feeding", "total"])
def test_lswag_by_a_plain_loop(pairing, interval):
    net, batch = cnn(), make_batch()
    lambdas, psis = lambdas_by_loop(net, batch), psis_by_loop(net, batch)
    n, m = len(lambdas), len(psis)
    first, last = interval or (0, 9)
    inside = [i for i in range(n) if first <= tenth(i, n) <= last]
    if pairing == "nearest":
        wanted = sum(lambdas[i] * psis[i * m // n] for i in inside)
    elif pairing == "percentile":
        wanted = sum(lambdas[i] * psis[j] for i in inside for j in range(m) if tenth(i, n) == tenth(j, m))
    elif pairing == "feeding":  # every layer but the first is fed by the activation before it
        wanted = sum(lambdas[i] * psis[i - 1] for i in inside if i > 0)
    else:
        wanted = sum(lambdas[i] for i in inside) * sum(psis[j] for j in range(m) if first <= tenth(j, m) <= last)
    by_proxy = score(net, batch, LSWAG(pairing=pairing, interval=interval), mode="eval")
    assert by_proxy["lswag"] == pytest.approx(wanted, rel=1e-9)
    by_argument = score(net, batch, LSWAG(pairing=pairing), interval=interval, mode="eval")
    assert by_argument["lswag"] == by_proxy["lswag"]
    if interval is None:
        assert [row.trainability for row in by_proxy.profile.weights] == pytest.approx(lambdas, rel=1e-9)
        assert [row.expressivity for row in by_proxy.profile.activations] == psis


@pytest.mark.parametrize("pairing", ["nearest", "percentile", "feeding"])
@pytest.mark.parametrize("cut", [1, 3, 5, 7])
def test_an_interval_restricts_the_sum(pairing, cut):
    net, batch = cnn(), make_batch()
    whole = score(net, batch, LSWAG(pairing=pairing))["lswag"]
    parts = [score(net, batch, LSWAG(pairing=pairing), interval=part)["lswag"] for part in ((0, cut - 1), (cut, 9))]
    assert sum(parts) == pytest.approx(whole, rel=1e-12)


def test_layers_outside_the_interval_get_no_statistics():
    rows = score(cnn(), make_batch(), "lswag", interval=(7, 9)).profile.weights
    assert [row.trainability is not None for row in rows] == [False, False, False, True]


def test_interval_of_a_proxy_comes_before_the_argument():
    net, batch = cnn(), make_batch()
    found = score(net, batch, [LSWAG(interval=(0, 4), label="own"), LSWAG(label="given")], interval=(7, 9))
    assert found["own"] == score(net, batch, "lswag", interval=(0, 4))["lswag"]
    assert found["given"] == score(net, batch, "lswag", interval=(7, 9))["lswag"]


@pytest.mark.parametrize("interval", [None, (4, 9)])
@pytest.mark.parametrize("mean", [True, False])
def test_lswag_robust_by_a_plain_loop(mean, interval):
    net, batch = cnn(), make_batch()
    found, psis = gradients(net, batch), psis_by_loop(net, batch)
    weights = dict(net.named_parameters())
    layers = [name for name, g in found.items() if name.endswith("weight") and g.dim() > 2]
    first, last = interval or (0, 9)
    inside = [i for i in range(len(layers)) if first <= tenth(i, len(layers)) <= last]
    terms, sensitivities = {}, {}
    for i in inside:
        total, variance = 0.0, 0.0
        for column in found[layers[i]].abs().flatten(1).T:
            sigma = float(column.std(correction=0))
            if not torch.equal(column, column[:1].expand_as(column)):
                total += (float(column.mean()) if mean else 1.0) / sigma
                variance += sigma**2
        weight = weights[layers[i]]
        terms[i] = math.log(total)
        sensitivities[i] = float(weight.detach().norm()) * math.sqrt(variance / weight.numel())
    median = sorted(sensitivities.values())
    half = len(median) // 2
    median = median[half] if len(median) % 2 else (median[half - 1] + median[half]) / 2
    wanted = sum(
        sensitivities[i] / (sensitivities[i] + 0.1 * median) * terms[i] * psis[i * len(psis) // len(layers)]
        for i in inside
    )
    proxy = LSWAGRobust(mean=mean, interval=interval)
    assert score(net, batch, proxy, mode="eval")["lswag_robust"] == pytest.approx(wanted, rel=1e-9)
    assert score(net, batch, [LSWAG(), proxy], mode="eval")["lswag_robust"] == pytest.approx(wanted, rel=1e-9)


def test_backbone_is_the_product_of_size_and_lswag():
    net, batch = cnn(), make_batch()
    found = score(net, batch, "backbone,lswag,params")
    assert found["backbone"] == pytest.approx(found["params"] * found["lswag"], rel=1e-12)
    part = score(net, batch, [Backbone(interval=(5, 9)), LSWAG(interval=(5, 9))])
    assert part["backbone"] == pytest.approx(found["params"] * part["lswag"], rel=1e-12)


def test_backbone_has_no_value_where_lswag_is_not_positive():
    net, batch = cnn(), make_batch()
    found = score(net, batch, "lswag,backbone", loss=lambda outputs, targets: 1e12 * F.cross_entropy(outputs, targets))
    assert found["lswag"] < 0 and math.isnan(found["backbone"]) and "inverse deviations" in found.reasons["backbone"]


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_lswag_robust_does_not_change_with_the_scale_of_the_loss(factor):
    net, batch = cnn(), make_batch()

    def scaled(outputs, targets):
        return factor * F.cross_entropy(outputs, targets)

    plain, other = score(net, batch, "lswag,lswag_robust"), score(net, batch, "lswag,lswag_robust", loss=scaled)
    assert other["lswag_robust"] == pytest.approx(plain["lswag_robust"], rel=1e-9)
    assert other["lswag"] != pytest.approx(plain["lswag"], rel=1e-3)


def test_a_layer_that_the_loss_hardly_reaches_counts_little_in_the_robust_form():
    class Branches(nn.Module):
        def __init__(self, scale):
            super().__init__()
            torch.manual_seed(3)
            self.scale, self.stem = scale, nn.Conv2d(3, 6, 3, padding=1)
            self.trunk, self.branch = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.head = nn.Linear(6, CLASSES)

        def forward(self, x):
            x = self.stem(x).relu()
            return self.head((self.trunk(x) + self.scale * self.branch(x)).relu().mean((2, 3)))

    batch = make_batch(dtype=torch.float32)
    alive, vanishing = (score(Branches(scale), batch, "lswag,lswag_robust") for scale in (1.0, 1e-6))
    assert vanishing["lswag"] > 1.1 * alive["lswag"]  # what training cannot reach is rewarded
    assert vanishing["lswag_robust"] < alive["lswag_robust"]


def test_depth_and_log_size_need_no_pass():
    net = cnn(norm=True)
    found = score(net, make_batch(), "depth,log_size")
    sizes = [p.numel() for p in net.parameters() if p.dim() > 1]
    assert found["depth"] == len(sizes) == 4
    assert found["log_size"] == pytest.approx(sum(map(math.log, sizes)))
    assert not found.profile.weights


def test_biases():
    net, batch = cnn(), make_batch()
    wanted, psis = lambdas_by_loop(net, batch, biases=True), psis_by_loop(net, batch)
    found = score(net, batch, [LSWAG(biases=True, label="with"), LSWAG(label="without")], mode="eval")
    assert [row.terms["with"] for row in found.profile.weights] == pytest.approx(wanted, rel=1e-9)
    assert found["with"] == pytest.approx(sum(w * psis[i * 3 // 4] for i, w in enumerate(wanted)), rel=1e-9)
    assert found["with"] > found["without"]


@pytest.mark.parametrize("batches", [2, 3, 4])
def test_granularity_of_mini_batches(batches):
    net, batch = cnn(), make_batch()
    size = N // batches
    wanted, psis = lambdas_by_loop(net, batch, size), psis_by_loop(net, batch)
    asked = [LSWAG(granularity="batch", batches=batches), ZiCo(granularity="batch", batches=batches)]
    found = score(net, batch, asked, mode="eval")
    assert [row.terms["lswag"] for row in found.profile.weights] == pytest.approx(wanted, rel=1e-9)
    assert found["lswag"] == pytest.approx(sum(w * psis[i * 3 // 4] for i, w in enumerate(wanted)), rel=1e-9)
    zico = 0.0
    for name, g in gradients(net, batch, size).items():
        if name.endswith("weight") and g.dim() >= 3:
            sigma = g.flatten(1).std(0, unbiased=False)
            alive = sigma > 0
            zico += math.log(float((g.flatten(1).abs().mean(0)[alive] / sigma[alive]).sum()))
    assert found["zico"] == pytest.approx(zico, rel=1e-9)


@pytest.mark.parametrize("samples", [11, 13])
def test_mini_batches_of_unequal_size_leave_no_sample_out(samples):
    found = score(cnn(), make_batch(samples), ZiCo(granularity="batch", batches=3))
    assert math.isfinite(found["zico"])


def test_mini_batches_are_as_many_as_asked_for():
    seen = []
    net = cnn()
    net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    score(net, make_batch(9), ZiCo(granularity="batch", batches=4))
    assert len(seen) == 4 and sum(seen) == 9


def test_other_scores_by_a_plain_loop():
    net, batch = cnn(), make_batch()
    found = score(net, batch, ["zico", "snip", "plain", "grad_norm", "l2_norm"], mode="eval")
    wanted = dict.fromkeys(("zico", "snip", "plain", "grad_norm", "l2_norm"), 0.0)
    for name, g in gradients(net, batch).items():
        if not name.endswith("weight") or g.dim() < 3:
            continue
        weight, mean = net.get_parameter(name).detach(), g.mean(0)
        sigma, size = g.flatten(1).std(0, unbiased=False), g.flatten(1).abs().mean(0)
        wanted["zico"] += math.log(float((size[sigma > 0] / sigma[sigma > 0]).sum()))
        wanted["snip"] += float((weight * mean).abs().sum())
        wanted["plain"] += float((weight * mean).sum())
        wanted["grad_norm"] += float(mean.norm())
        wanted["l2_norm"] += float(weight.norm())
    for proxy, value in wanted.items():
        assert found[proxy] == pytest.approx(value, rel=1e-9), proxy


def test_fisher_by_a_plain_loop():
    net, batch = cnn(), make_batch()
    net.eval()
    wanted, outputs, x = 0.0, [], batch.inputs
    for layer in net:
        x = layer(x)
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            outputs.append((layer, x))
    grads = torch.autograd.grad(F.cross_entropy(x, batch.targets), [y for _, y in outputs])
    for (layer, y), g in zip(outputs, grads, strict=True):
        product = (y * g).flatten(2).sum(2) if y.dim() > 2 else y * g
        wanted += float(0.5 * product.square().mean(0).sum()) * layer.weight.numel() / len(layer.weight)
    assert score(net, batch, "fisher", mode="eval")["fisher"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (4, 1), (6, 2), (4, 4)])
def test_fisher_of_transposed_convolutions_by_a_plain_loop(channels, groups):
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, channels if groups < 4 else 4, 3, stride=2, groups=groups)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), up, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net, batch = net.double(), Batch(torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0]))
    outputs, x = [], batch.inputs
    for layer in net:
        x = layer(x)
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            outputs.append((layer, x))
    grads = torch.autograd.grad(F.cross_entropy(x, batch.targets), [y for _, y in outputs])
    wanted = 0.0
    for (layer, y), g in zip(outputs, grads, strict=True):
        energy = (y * g).flatten(2).sum(2).square().mean(0).sum()
        wanted += float(0.5 * energy) * layer.weight.numel() / y.shape[1]
    assert score(net, batch, "fisher", mode="eval")["fisher"] == pytest.approx(wanted, rel=1e-9)


def test_asking_for_more_changes_no_value():
    net, batch = cnn(norm=True), make_batch()
    asked = [RegSwap(mu=1.0, sigma=9.0) if name == "reg_swap" else name for name in list_proxies()]
    together = score(net, batch, asked)
    for proxy, name in zip(asked, list_proxies(), strict=True):
        if math.isnan(together[name]):
            refused(re.escape(together.reasons[name]), net, batch, proxy)
        else:
            assert score(net, batch, proxy)[name] == pytest.approx(together[name], rel=1e-9), name
    assert set(together.reasons) == {"te_nas_regions", "tf_tas"}, "not images of any size, no attention"


def test_params_and_flops_of_a_known_network():
    resnet18 = pytest.importorskip("torchvision").models.resnet18()
    found = score(resnet18, Batch.builtin("noise", size=(3, 224, 224), samples=2), ["params", "flops"])
    assert found["params"] == 11_689_512
    assert found["flops"] == 1_814_073_344


def test_shared_parameters_are_counted_once():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[2].weight = net[0].weight
    found = score(net, make_batch(shape=(6,), dtype=torch.float32), ["params", "flops", "l2_norm"])
    assert found["params"] == 36 + 12
    assert found["flops"] == 2 * 36
    assert found["l2_norm"] == pytest.approx(float(net[0].weight.norm()), rel=1e-6)


@pytest.mark.parametrize("max_memory", [None, 30_000])
def test_codes_of_images_that_are_channels_last(max_memory):
    net, batch = cnn(), make_batch()
    turned = Batch(batch.inputs.to(memory_format=torch.channels_last), batch.targets)
    assert not turned.inputs.is_contiguous()
    wanted = score(net, batch, ["swap", "nwot", "lswag"], mode="eval")
    found = score(net, turned, ["swap", "nwot", "lswag"], mode="eval", max_memory=max_memory)
    assert (found.memory["parts"] > 1) == (max_memory is not None)
    assert found["swap"] == wanted["swap"] and found["nwot"] == pytest.approx(wanted["nwot"], rel=1e-12)
    assert found["lswag"] == pytest.approx(wanted["lswag"], rel=1e-9)
    assert score(net, turned, "t_cet")["t_cet"] == pytest.approx(score(net, batch, "t_cet")["t_cet"], rel=1e-9)


class Token(nn.Module):
    """Hands a view of a parameter to a module, as timm's PiT does: torch's counter alone fails on it."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 6))
        self.join, self.last = nn.Bilinear(6, 6, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.join(x, self.token.expand(len(x), -1)))


def test_flops_where_a_parameter_is_handed_to_a_module():
    assert score(Token(), make_batch(shape=(6,), dtype=torch.float32), "flops")["flops"] >= 6 * 4


@pytest.mark.parametrize("bias", [True, False])
def test_flops_of_attention_that_torch_would_run_as_one_operation(bias):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0].relu().mean(1))

    found = score(Encoder(), make_batch(shape=(5, 8), dtype=torch.float32), ["params", "flops"])
    assert found["flops"] == 5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8 + 8 * 4


@pytest.mark.parametrize(
    ("name", "size"), [("mobilenetv3_small_050", 64), ("pit_ti_224", 224), ("swin_tiny_patch4_window7_224", 224)]
)
def test_flops_are_those_of_torchs_counter(name, size):
    net, batch = timm.create_model(name).eval(), Batch.builtin("noise", size=(3, size, size), samples=2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        net(batch.inputs[:1])
    assert score(net, batch, "flops")["flops"] == counter.get_total_flops() / 2


@pytest.mark.parametrize("batches", [2, 64])
def test_flops_do_not_depend_on_the_batch(batches):
    assert (
        score(cnn(double=False), make_batch(batches, torch.float32), "flops")["flops"]
        == 8 * 8 * 162 + 9 * 216 + 720 + 40
    )


# ---------------------------------------------------------------- determinism


@pytest.mark.parametrize("mode", ["score", "train", "eval"])
def test_same_seed_same_score(mode):
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, CLASSES)).double()
    batch = make_batch(shape=(6,))
    asked = ["lswag", "zico", "swap", "nwot", "fisher"]

    def values(seed):
        torch.rand(1)  # the state outside does not matter
        return dict(score(net, batch, asked, mode=mode, seed=seed))

    first = values(3)
    assert values(3) == first
    assert (values(4) != first) == (mode == "train")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tile_bytes", [1, 300, 5_000, 1 << 16, 1 << 30])
def test_tile_size_does_not_matter(tile_bytes, dtype):
    net, batch = cnn(norm=True).to(dtype), make_batch(dtype=dtype)
    proxies = resolve_proxies([LSWAG(biases=True), "zico", "fisher", "snip", "plain", "grad_norm"])
    wanted = score(net, batch, proxies)
    seen, _ = observe(net, batch, resolve_objective(net), proxies, Settings("score", None, tile_bytes))
    for proxy in proxies:
        assert proxy.total(seen) == pytest.approx(wanted[proxy.key], rel=1e-5 if dtype == torch.float32 else 1e-9), (
            proxy.key
        )


def test_number_of_threads_does_not_matter():
    net, batch = cnn(norm=True, double=False), make_batch(32, torch.float32)
    asked = [RegSwap(mu=1.0, sigma=9.0) if name == "reg_swap" else name for name in list_proxies()]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = score(net, batch, asked)
        torch.set_num_threads(2)
        two = score(net, batch, asked)
    finally:
        torch.set_num_threads(before)
    for name in one:
        assert two[name] == pytest.approx(one[name], rel=1e-5, nan_ok=True), name


def test_double_and_single_precision_agree():
    single = score(cnn(double=False), make_batch(dtype=torch.float32), ["lswag", "zico", "snip", "fisher", "swap"])
    double = score(cnn(), make_batch(), ["lswag", "zico", "snip", "fisher", "swap"])
    for name in single:
        assert single[name] == pytest.approx(double[name], rel=2e-3), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_to_single(dtype):
    names = ["lswag", "lswag_robust", "zico", "swap", "grad_norm", "plain", "snip", "fisher", "l2_norm"]
    net, batch = cnn(norm=True, double=False), make_batch(dtype=torch.float32)
    whole = score(net, batch, names).scores
    half = score(net.to(dtype), make_batch(dtype=dtype), names).scores
    assert half == pytest.approx(whole, rel=0.1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted_batch_norm_uses_batch_statistics_too():
    net, batch = cnn(norm=True), make_batch()
    found = score(torch.jit.script(net), batch, "zico")
    assert found["zico"] == pytest.approx(score(net, batch, "zico")["zico"], rel=1e-9)
    assert found.coverage.coupled == 1


@pytest.mark.parametrize(
    "asked",
    [
        *sorted(set(list_proxies()) - {"reg_swap", "te_nas_regions", "tf_tas", "zen"}),  # these are not defined here
        ZiCo(granularity="batch"),
        LSWAG(granularity="batch"),
    ],
)
def test_mean_and_sum_of_the_loss_give_the_same_score(asked):
    net, batch = cnn(), make_batch()
    key = asked if isinstance(asked, str) else asked.name
    mean = score(net, batch, asked, loss=nn.CrossEntropyLoss())[key]
    total = score(net, batch, asked, loss=nn.CrossEntropyLoss(reduction="sum"))[key]
    told = score(net, batch, asked, loss=lambda y, t: F.cross_entropy(y, t, reduction="sum"), reduction="sum")[key]
    assert total == pytest.approx(mean, rel=1e-9)
    assert told == pytest.approx(mean, rel=1e-9)


def test_order_of_samples_does_not_matter():
    net, batch = cnn(norm=True), make_batch()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    mixed = Batch(batch.inputs[order], batch.targets[order])
    asked = ["lswag", "zico", "swap", "nwot", "fisher", "snip"]
    a, b = score(net, batch, asked), score(net, mixed, asked)
    for name in asked:
        assert b[name] == pytest.approx(a[name], rel=1e-8), name


# ---------------------------------------------------------------- BatchNorm


@pytest.mark.parametrize("mode", ["score", "train"])
def test_batch_statistics_split_the_coupled_gradient_by_rows(mode):
    torch.manual_seed(3)
    conv, norm, fc = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(5), nn.Linear(80, CLASSES)
    net, batch = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), fc).double(), make_batch()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x, kept = batch.inputs, [norm.running_mean.clone(), norm.running_var.clone()]
    # by hand, with the statistics of this batch
    y = F.conv2d(x, conv.weight, None, 2, 1)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    z = (y - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    h = z.relu().flatten(1)
    logits = h @ fc.weight.T + fc.bias
    loss = F.cross_entropy(logits, batch.targets, reduction="sum")
    dy, dlogits = torch.autograd.grad(loss, [y, logits])
    columns = F.unfold(x, 3, padding=1, stride=2)
    first = torch.einsum("nol,nil->noi", dy.flatten(2), columns)
    second = torch.einsum("no,ni->noi", dlogits, h.detach())
    wanted = [math.log(inverse(g)) for g in (first, second)]
    codes = len({tuple(column.tolist()) for column in (z.flatten(1) > 0).T})
    found = score(net, batch, ["lswag", "swap"], mode=mode)
    assert [row.trainability for row in found.profile.weights] == pytest.approx(wanted, rel=1e-9)
    assert found["swap"] == codes
    assert found["lswag"] == pytest.approx(sum(wanted) * codes, rel=1e-9)
    assert found.coverage.coupled == 1
    assert torch.equal(norm.running_mean, kept[0]) and torch.equal(norm.running_var, kept[1])


def test_running_statistics_in_evaluation_mode():
    net, batch = cnn(norm=True), make_batch()
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    found = score(net, batch, "lswag", mode="eval")
    assert [row.trainability for row in found.profile.weights] == pytest.approx(lambdas_by_loop(net, batch), rel=1e-9)
    assert found.coverage.coupled == 0


def test_dropout_is_off_while_scoring_and_on_in_train_mode():
    def network(rate):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(rate), nn.Linear(32, CLASSES)).double()

    batch = make_batch(shape=(6,))
    assert score(network(0.5), batch)["lswag"] == score(network(0.0), batch)["lswag"]
    assert score(network(0.5), batch, mode="train")["lswag"] != score(network(0.0), batch, mode="train")["lswag"]


# ---------------------------------------------------------------- the result


def test_result_is_a_mapping_with_a_profile():
    net, batch = cnn(), make_batch()
    found = score(net, batch, "lswag, zico")
    assert list(found) == ["lswag", "zico"] and len(found) == 2
    assert found.samples == N and found.parameters == sum(p.numel() for p in net.parameters()) and found.seconds > 0
    with pytest.raises(KeyError, match="was not asked for"):
        found["swap"]
    assert len(found.profile.to_pandas()) == 7
    assert found.coverage.weight_share == 1.0 and found.coverage.activation_share == 1.0
    assert found.settings["batch"] == batch.fingerprint
    assert "lswag" in str(found)
    json.dumps(found.to_dict())


def test_pair_of_tensors_is_a_batch():
    batch = make_batch()
    assert score(cnn(), (batch.inputs, batch.targets))["lswag"] == score(cnn(), batch)["lswag"]


@pytest.mark.parametrize("asked", ["lswag", "zico"])
def test_backbone_without_gradients_leaves_the_head(asked):
    class Probed(nn.Module):
        """A linear probe: features come without a graph, yet they are of the samples."""

        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

        def forward(self, x):
            with torch.no_grad():
                features = self.backbone(x).relu()
            return self.head(features)

    net, batch = Probed().double(), make_batch(shape=(6,))
    found = score(net, batch, asked)
    features = net.backbone(batch.inputs).relu().detach()
    logits = net.head(features)
    (d,) = torch.autograd.grad(F.cross_entropy(logits, batch.targets, reduction="sum"), logits)
    wanted = math.log(inverse(torch.einsum("no,ni->noi", d, features)))
    assert [row.name for row in found.profile.weights] == ["head"]
    assert found.profile.weights[0].trainability == pytest.approx(wanted, rel=1e-9)
    assert set(found.coverage.uncovered) == {"backbone.weight"}


def test_frozen_layers_count_and_are_listed():
    net, batch = cnn(), make_batch()
    wanted = score(net, batch)["lswag"]
    net[0].weight.requires_grad_(False)
    found = score(net, batch)
    assert found["lswag"] == wanted
    assert [name.removesuffix(".weight") for name in found.coverage.frozen] == ["0"]


def test_zero_gradients_are_told():
    net, batch = cnn(), make_batch()
    nn.init.zeros_(net[-1].weight)
    with pytest.warns(UserWarning, match="exactly zero"):
        found = score(net, batch)
    own = [g for name, g in gradients(net, batch).items() if name.endswith("weight") and g.dim() >= 3]
    zero = sum(int((g.abs().amax(0) == 0).sum()) for g in own)
    assert found.coverage.zero_gradient_share == pytest.approx(zero / sum(g[0].numel() for g in own))
    assert set(found.coverage.dead) == {"0", "2", "5"}
    assert [row.trainability for row in found.profile.weights][:3] == [0.0, 0.0, 0.0]


def asleep():
    """A residual network as timm builds them: behind zero gains no gradient differs from zero."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4, zero_init_last=True)


EVERY = ["lswag", "lswag_robust", "zico", "gsnr", "snip", "plain", "grad_norm", "fisher", LSWAG(biases=True, label="b")]


@pytest.mark.parametrize("max_memory", [None, "2MB"])
@pytest.mark.filterwarnings("ignore")
def test_layers_without_a_gradient_score_as_if_it_were_formed(monkeypatch, max_memory):
    batch = Batch(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3]))
    model = asleep()
    found = score(model, batch, EVERY, mode="eval", max_memory=max_memory)
    monkeypatch.setattr("lswag_hooks.hooks.weights._is_zero", lambda gradient: False)
    formed = score(model, batch, EVERY, mode="eval", max_memory=max_memory)
    assert found.coverage.dead and (found.memory["parts"] > 1) == (max_memory is not None)
    assert found.scores == formed.scores
    assert found.profile == formed.profile
    assert found.coverage == formed.coverage


@pytest.mark.filterwarnings("ignore")
def test_layers_without_a_gradient_form_none(monkeypatch):
    from lswag_hooks.hooks.rules.conv import GroupedConvGradient, ShiftedConvGradient

    formed = []
    for source in (GroupedConvGradient, ShiftedConvGradient):
        block = source.block
        monkeypatch.setattr(source, "block", lambda self, *a, block=block: formed.append(self) or block(self, *a))
    batch = Batch(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3]))
    found = score(asleep(), batch)
    rows = found.profile.weights
    alive = [row for row in rows if row.kind == "conv" and row.alive]
    assert found.coverage.dead and len(set(map(id, formed))) <= len(alive)


def test_no_warning_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(cnn(), make_batch()).notes == []


def test_value_that_cannot_be_had_is_nan_with_a_reason():
    net, batch = nn.Linear(6, CLASSES).double(), make_batch(shape=(6,))
    found = score(net, batch, ["lswag", "swap", "zico", "reg_swap"])
    assert math.isfinite(found["zico"])
    for name in ("lswag", "swap", "reg_swap"):
        assert math.isnan(found[name]) and found.reasons[name]
    assert "mu" in found.reasons["reg_swap"] and "activation" in found.reasons["lswag"]


def test_singular_kernel_is_nan_with_a_reason():
    batch = make_batch()
    batch.inputs[1] = batch.inputs[0]
    found = score(cnn(), batch, ["nwot", "swap"])
    assert math.isnan(found["nwot"]) and "same" in found.reasons["nwot"]


# ---------------------------------------------------------------- bad input


class Counting(nn.Module):
    """Notes whether anything was run."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, []

    def forward(self, x):
        self.calls.append(1)
        return self.inner(x)


def refused(match, *args, **kwargs):
    with pytest.raises(InputError, match=match):
        score(*args, **kwargs)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ("lsawg", r"lsawg.*'lswag'"),
        (["lswag", "grad-norm"], r"grad-norm.*'grad_norm'"),
        ([], "no proxy"),
        ("", "no proxy"),
        ([3], "proxy is a name"),
        (3, "proxies=3"),
        (None, "proxies=None"),
        (LSWAG, "proxies=<class"),
        (["lswag", "lswag"], "label"),
        (["lswag", LSWAG(pairing="total")], "label"),
    ],
)
def test_unknown_proxies_are_refused_before_any_work(asked, match):
    net = Counting(cnn())
    refused(match, net, make_batch(), asked)
    assert not net.calls


@pytest.mark.parametrize("interval", [(0, 10), (-1, 3), (4, 2), (1, 2, 3), "last", 7, (1.5, 3)])
def test_intervals_out_of_range_are_refused_before_any_work(interval):
    net = Counting(cnn())
    refused("interval", net, make_batch(), interval=interval)
    with pytest.raises(InputError, match="interval"):
        LSWAG(interval=interval)
    assert not net.calls


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "test"}, "mode='test'.*'eval'"),
        ({"reduction": "none"}, "reduction='none'"),
        ({"loss": "mse"}, "loss='mse'"),
        ({"loss": 3}, "loss=3"),
        ({"loss": "training_step"}, "LightningModule"),
    ],
)
def test_unknown_options_are_refused_before_any_work(options, match):
    net = Counting(cnn())
    refused(match, net, make_batch(), **options)
    assert not net.calls


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pairing": "closest"}, "pairing"),
        ({"granularity": "epoch"}, "granularity"),
        ({"granularity": "batch", "batches": 1}, "batches=1"),
    ],
)
def test_options_of_proxies_are_checked(options, match):
    with pytest.raises(InputError, match=match):
        LSWAG(**options)


def test_more_mini_batches_than_samples():
    net = Counting(cnn())
    refused("13 mini-batches", net, make_batch(), ZiCo(granularity="batch", batches=13))
    assert not net.calls


def test_batch_of_one_sample():
    net = Counting(cnn())
    refused("1 sample", net, (torch.randn(1, 3, 8, 8).double(), torch.tensor([0])))
    assert not net.calls


def test_targets_of_the_wrong_length():
    net = Counting(cnn())
    refused("targets", net, (torch.randn(4, 3, 8, 8).double(), torch.arange(3)))
    assert not net.calls


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (torch.rand(N), "class numbers"),
        (None, "targets"),
        (torch.full((N,), CLASSES), f"the model has {CLASSES} outputs"),
        (torch.full((N,), -1), f"the model has {CLASSES} outputs"),
        (torch.zeros(N, 2, dtype=torch.long), "do not fit"),
    ],
)
def test_targets_that_do_not_fit_the_model(targets, match):
    refused(match, cnn(), Batch(make_batch().inputs, targets))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_numbers(value):
    net, x = Counting(cnn()), torch.randn(4, 3, 8, 8).double()
    x[2, 0, 1, 1] = value
    refused("NaN or infinite", net, (x, torch.arange(4)))
    assert not net.calls


def scaled_to(value):
    net = cnn()
    with torch.no_grad():
        net[-1].bias.fill_(value)
    return net


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_no_number(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused("the loss is", scaled_to(value), make_batch())


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="none"),
        lambda y, t: y,
        lambda y, t: 3.0,
        lambda y, t: None,
        lambda y, t: (F.cross_entropy(y, t), y),
    ],
)
def test_loss_that_is_not_a_scalar(loss):
    refused("one number", cnn(), make_batch(), loss=loss)


def test_loss_that_is_complex():
    refused("complex", cnn(), make_batch(), loss=lambda outputs, targets: outputs.sum() * (1 + 1j))


def test_loss_without_a_gradient():
    refused("does not depend", cnn(), make_batch(), loss=lambda y, t: F.cross_entropy(y.detach(), t))


def test_model_on_another_device():
    net = Counting(cnn())
    refused("meta", net.to("meta"), make_batch())
    refused("move one", Counting(cnn()), make_batch().to("meta"))
    assert not net.calls


class Constant(nn.Module):
    """Runs its layers on something of its own."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.start = nn.Parameter(torch.randn(1, 6))

    def forward(self, x):
        if self.kind == "parameter":
            return self.head(self.fc(self.start).relu()).expand(len(x), -1)
        if self.kind == "zeros":
            return self.head(self.fc(torch.zeros_like(x)).relu())
        return self.head(self.fc(x.detach() * 0 + 1).relu())


@pytest.mark.parametrize("kind", ["parameter", "zeros", "detached"])
@pytest.mark.parametrize("asked", ["lswag", "zico", "swap"])
def test_model_whose_outputs_do_not_depend_on_its_input(kind, asked):
    refused("input", Constant(kind).double(), make_batch(shape=(6,)), asked)


class Gains(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(CLASSES, dtype=torch.float64))

    def forward(self, x):
        return (x * self.gain).relu()


@pytest.mark.parametrize(
    "asked",
    ["lswag", "zico", "snip", "plain", "grad_norm", "fisher", LSWAG(granularity="batch"), ZiCo(granularity="batch")],
    ids=str,
)
def test_network_without_a_weight_layer(asked):
    refused("weight layer", Gains(), make_batch(shape=(CLASSES,)), asked)


def test_scores_of_layers_are_nan_where_there_is_no_layer():
    found = score(Gains(), make_batch(shape=(CLASSES,)), ["zico", "snip", "swap"])
    assert math.isnan(found["zico"]) and math.isnan(found["snip"]) and found["swap"] > 0
    assert "weight layer" in found.reasons["zico"]


def test_network_without_a_parameter():
    refused("parameter|weight layer", nn.Sequential(nn.ReLU(), nn.Flatten()), make_batch(shape=(CLASSES,)))


@pytest.mark.parametrize("asked", ["lswag", "swap", "nwot"])
def test_network_without_an_activation_that_is_known(asked):
    refused(
        "register_activation",
        nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double(),
        make_batch(shape=(6,)),
        asked,
    )


@pytest.mark.parametrize("model", [None, nn.Linear, lambda x: x, torch.zeros(3)])
def test_model_that_is_none(model):
    refused("nn.Module", model, make_batch())


def test_name_of_no_model():
    refused("Did you mean 'timm/resnet18'", "resnet18", make_batch())


@pytest.mark.parametrize("batch", [None, 3, "digits", torch.randn(4, 6), {"x": torch.randn(4, 6)}])
def test_batch_that_is_none(batch):
    net = Counting(nn.Sequential(nn.Linear(6, 4), nn.ReLU()))
    refused(None, net, batch)
    assert not net.calls


def test_output_without_a_prediction():
    class Mute(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, CLASSES)

        def forward(self, x):
            self.fc(x)
            return "nothing"

    refused("prediction", Mute().double(), make_batch(shape=(6,)))


def test_lazy_modules_are_refused():
    with pytest.raises(UnsupportedError, match="forward pass"):
        score(nn.Sequential(nn.LazyLinear(CLASSES), nn.ReLU()), make_batch(shape=(6,)))


def test_lazy_buffers_are_refused():
    net = nn.Sequential(nn.Linear(6, 6), nn.LazyBatchNorm1d(affine=False), nn.ReLU(), nn.Linear(6, CLASSES))
    with pytest.raises(UnsupportedError, match=r"1.running_mean .*forward pass"):
        score(net, make_batch(shape=(6,)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_quantised_modules_are_refused():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UnsupportedError, match="0 is quantised"):
        score(quantised, make_batch(shape=(6,), dtype=torch.float32))


def test_inference_mode_is_refused():
    net, batch = cnn(), make_batch()
    with torch.inference_mode():
        with pytest.raises(UnsupportedError, match="inference_mode"):
            score(net, batch)
        unfit = cnn(), make_batch()
    with pytest.raises(UnsupportedError, match=r"0.weight .*inference_mode"):
        score(unfit[0], batch)
    refused("batch .*inference_mode", net, unfit[1])


def test_interval_that_holds_no_layer():
    found = score(cnn(), make_batch(), ["lswag", "zico"], interval=(8, 9))
    assert math.isnan(found["lswag"]) and "0, 2, 5, 7" in found.reasons["lswag"]
    assert math.isfinite(found["zico"])
