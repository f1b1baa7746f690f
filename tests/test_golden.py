"""Figures that the proxies' published codes (or a float64 loop) gave for two small networks and one batch.

The networks and the batch are drawn anew from numpy's RandomState, so that the test needs no file.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lswag_hooks import LSWAG, Batch, RegSwap, ZiCo, score
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.passes import features, perturbation
from lswag_hooks.proxies import (
    TCET,
    AZExpressivity,
    AZProgressivity,
    AZTrainability,
    GradSign,
    NASGraph,
    SynFlow,
    TENASRegions,
    XiGSNR,
    Zen,
)


def cbr(ins, outs, stride=1, bias=False):
    return nn.ModuleDict(
        {"conv": nn.Conv2d(ins, outs, 3, stride, 1, bias=bias), "bn": nn.BatchNorm2d(outs), "relu": nn.ReLU()}
    )


class CNN(nn.Module):
    """Four stages; the shortcut of the third is registered before, but runs after, the main path."""

    def __init__(self):
        super().__init__()
        self.stem = cbr(3, 8)
        self.res = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(8, 8, 3, 1, 1, bias=False),
                "bn1": nn.BatchNorm2d(8),
                "relu1": nn.ReLU(),
                "conv2": nn.Conv2d(8, 8, 3, 1, 1, bias=False),
                "bn2": nn.BatchNorm2d(8),
                "relu2": nn.ReLU(),
            }
        )
        self.down = nn.ModuleDict(
            {
                "short": nn.Conv2d(8, 16, 1, 2, bias=False),
                "short_bn": nn.BatchNorm2d(16),
                "conv1": nn.Conv2d(8, 16, 3, 2, 1, groups=4, bias=False),
                "bn1": nn.BatchNorm2d(16),
                "relu1": nn.ReLU(),
                "conv2": nn.Conv2d(16, 16, 1, bias=False),
                "bn2": nn.BatchNorm2d(16),
                "relu2": nn.ReLU(),
            }
        )
        self.last = cbr(16, 32, 2, True)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        m = self.stem
        x = m["relu"](m["bn"](m["conv"](x)))
        m = self.res
        x = m["relu2"](m["bn2"](m["conv2"](m["relu1"](m["bn1"](m["conv1"](x))))) + x)
        m = self.down
        y = m["bn2"](m["conv2"](m["relu1"](m["bn1"](m["conv1"](x)))))
        x = m["relu2"](y + m["short_bn"](m["short"](x)))
        m = self.last
        x = m["relu"](m["bn"](m["conv"](x)))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(24)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(24, 72), "proj": nn.Linear(24, 24)})
        self.norm2 = nn.LayerNorm(24)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(24, 72), "act": nn.GELU(), "fc2": nn.Linear(72, 24)})

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).reshape(b, n, 3, 3, 8).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(-1) @ v
        x = x + self.attn["proj"](mixed.transpose(1, 2).reshape(b, n, 24))
        return x + self.mlp["fc2"](self.mlp["act"](self.mlp["fc1"](self.norm2(x))))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 24))
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def drawn(net):
    """Weights from RandomState(0) in the order of the state dict; nothing is at its usual initial value."""
    rng = np.random.RandomState(0)
    norms = {name for name, m in net.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))}
    state = {}
    for name, tensor in net.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            state[name] = tensor
            continue
        shape = tuple(tensor.shape)
        value = rng.uniform(0.5, 1.5, shape) if leaf == "running_var" else rng.standard_normal(shape)
        if leaf == "weight":
            value = 1 + 0.1 * value if owner in norms else value * math.sqrt(2 / np.prod(shape[1:]))
        elif leaf != "running_var":
            value = 0.1 * value
        state[name] = torch.from_numpy(value.astype(np.float32))
    net.load_state_dict(state)
    return net.train()


def make_batch(dtype):
    rng = np.random.RandomState(100)
    labels = rng.permutation([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 0])
    means = rng.standard_normal((5, 3, 1, 1))
    images = rng.standard_normal((16, 3, 16, 16)) + 0.5 * means[labels]
    return Batch(torch.from_numpy(images.astype(np.float32)).to(dtype), torch.from_numpy(labels.astype(np.int64)))


NETS = {"cnn": CNN, "vit": ViT}

# proxy: (value in float64, relative difference of float32); train mode, all 16 images, mean cross-entropy
TRAIN = {
    "cnn": {
        "snip": (8.314196278794798, 3.702271134368788e-08),
        "plain": (0.09972359275905272, 2.952543093576333e-07),
        "grad_norm": (2.805534787866962, 1.8450373557799812e-08),
        "l2_norm": (39.223075029462784, 7.591094855620059e-08),
        "fisher": (0.12731710099798665, 6.124857865629963e-08),
        "nwot": (135.72719692642312, 0.0),
        "reg_swap": (6897.811533384896, 0.0),
    },
    "vit": {
        "snip": (89.4407069666944, 2.930423261036616e-08),
        "plain": (0.5594530103877757, 1.0623472815298417e-07),
        "grad_norm": (18.931005564253116, 1.0531381804836417e-07),
        "l2_norm": (85.283081356306, 3.5366744994295797e-09),
        "fisher": (1.3744537733127637, 8.880591847238952e-08),
        "nwot": (113.7663652953229, 0.0),
    },
}
EVAL = {
    "cnn": {"lswag": (64359.2337182054, 7.2881500792389664e-06)},
    "vit": {"lswag": (21468.850504993195, 5.724851192815269e-09)},
}
ZICO = {"cnn": (60.953985633982285, 1.4668880969848587e-05), "vit": (88.60849011606996, 0.00014998878121548598)}
ZICO_LAYERS = {
    "cnn": {
        "stem.conv": 7.4052628508161575,
        "res.conv1": 8.352237021098537,
        "res.conv2": 7.921624109253557,
        "down.short": 6.3718498840983875,
        "down.conv1": 7.3634063513431025,
        "down.conv2": 7.445315978868814,
        "last.conv": 10.420011753153636,
        "head": 5.674277685350095,
    },
    "vit": {
        "patch": 9.255024969405858,
        "blocks.0.attn.qkv": 8.826080076681995,
        "blocks.0.attn.proj": 8.622646594489566,
        "blocks.0.mlp.fc1": 9.941222294439864,
        "blocks.0.mlp.fc2": 9.310682478013808,
        "blocks.1.attn.qkv": 8.870943931936628,
        "blocks.1.attn.proj": 8.201496014904608,
        "blocks.1.mlp.fc1": 10.118948635169705,
        "blocks.1.mlp.fc2": 9.044059577662946,
        "head": 6.417385543364968,
    },
}
# layer: (trainability, sum over weights of mean |g|, weights of no variance, share of the largest 1/deviation)
LAYERS = {
    "cnn": {
        "stem.conv": (7.813141244322993, 26.716802436174014, 0, 0.009327563326148255),
        "res.conv1": (9.525506336548935, 42.93131877511557, 0, 0.013822919122000024),
        "res.conv2": (10.039679475905649, 33.55978791282668, 0, 0.011375305235601301),
        "down.conv1": (9.254828248033716, 15.370530103313401, 0, 0.018706820953976144),
        "down.conv2": (14.027661955927295, 14.726657101759777, 0, 0.9773607596563683),
        "down.short": (8.978409479524318, 9.484181644850004, 0, 0.24665360174768236),
        "last.conv": (14.098008835064661, 239.2871926904649, 106, 0.03947860771857565),
        "head": (7.693116688442656, 46.868063472106556, 0, 0.14402304738039984),
    },
    "vit": {
        "patch": (8.739689570036706, 228.23315365084537, 0, 0.0034874029787863646),
        "blocks.0.attn.qkv": (9.887311998108121, 186.86641378553935, 0, 0.004141124894496061),
        "blocks.0.attn.proj": (8.222920650054316, 92.08273898953959, 0, 0.00873923992328031),
        "blocks.0.mlp.fc1": (10.483752041204783, 96.8438036781294, 0, 0.003989279048740621),
        "blocks.0.mlp.fc2": (10.145536266216727, 145.91654737815074, 0, 0.0033359127365517245),
        "blocks.1.attn.qkv": (10.224715385638865, 111.02557895920827, 0, 0.0032117620821449752),
        "blocks.1.attn.proj": (9.06014459380467, 49.19206412116869, 0, 0.008814998101890747),
        "blocks.1.mlp.fc1": (11.195729923763444, 53.48019758598647, 0, 0.008437143084117953),
        "blocks.1.mlp.fc2": (11.197964305305415, 74.32200527640262, 0, 0.007478744458526015),
        "head": (6.190657348528949, 26.466620720140295, 0, 0.026062272212121547),
    },
}
# mode: patterns of each activation layer in call order, and of the whole network
PATTERNS = {
    "cnn": {"train": ([1815, 1898, 1870, 989, 1008, 507], 7545), "eval": ([1829, 1525, 1565, 784, 759, 422], 6184)},
    "vit": {"train": ([1145, 1121], 2141), "eval": ([1145, 1121], 2141)},
}
PARAMETERS = {"cnn": 7053, "vit": 13877}
MACS = {"cnn": 467104, "vit": 214392 + 27744}  # the second: products of the attention itself

TYPES = {"f64": torch.float64, "f32": torch.float32}


def tolerance(dtype, difference, floor=1e-5):
    return 1e-6 if dtype == "f64" else max(10 * difference, floor)


def setting(name, dtype):
    return SimpleNamespace(net=drawn(NETS[name]()).to(TYPES[dtype]), batch=make_batch(TYPES[dtype]))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("name", "proxy"), [(name, proxy) for name, values in TRAIN.items() for proxy in values])
def test_published_value_in_train_mode(name, proxy, dtype):
    given = setting(name, dtype)
    wanted, difference = TRAIN[name][proxy]
    asked = RegSwap(mu=8, sigma=10) if proxy == "reg_swap" else proxy
    found = score(given.net, given.batch, asked, mode="train")
    assert found[proxy] == pytest.approx(wanted, rel=tolerance(dtype, difference))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NETS)
def test_one_pass_for_all_gives_the_same_values(name, dtype):
    given = setting(name, dtype)
    asked = [RegSwap(mu=8, sigma=10) if proxy == "reg_swap" else proxy for proxy in TRAIN[name]]
    found = score(given.net, given.batch, [*asked, "lswag", "zico", "swap", "params", "flops"], mode="train")
    for proxy, (wanted, difference) in TRAIN[name].items():
        assert found[proxy] == pytest.approx(wanted, rel=tolerance(dtype, difference)), proxy
    assert found["swap"] == PATTERNS[name]["train"][1]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NETS)
def test_lswag(name, dtype):
    given = setting(name, dtype)
    wanted, difference = EVAL[name]["lswag"]
    found = score(given.net, given.batch, LSWAG(pairing="percentile"), mode="eval")
    assert found["lswag"] == pytest.approx(wanted, rel=tolerance(dtype, difference))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NETS)
def test_layers_of_lswag(name, dtype):
    given = setting(name, dtype)
    profile = score(given.net, given.batch, "lswag", mode="eval").profile
    assert [row.name for row in profile.weights] == list(LAYERS[name]), "layers in call order"
    for row in profile.weights:
        trainability, mean, zero, share = LAYERS[name][row.name]
        loose = dtype == "f32" and row.name in ("down.conv2", "last.conv")  # one weight is nearly all of the sum
        rel = 1e-3 if loose else tolerance(dtype, 2e-6)
        assert row.trainability == pytest.approx(trainability, rel=rel), row.name
        assert row.mean_gradient * row.size == pytest.approx(mean, rel=tolerance(dtype, 2e-6)), row.name
        if dtype == "f64":
            assert row.size - row.alive == zero, row.name
            assert row.largest_share == pytest.approx(share, rel=1e-6), row.name


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NETS)
def test_patterns(name, mode, dtype):
    given = setting(name, dtype)
    found = score(given.net, given.batch, ["lswag", "swap"], mode=mode)
    layers, whole = PATTERNS[name][mode]
    assert [row.expressivity for row in found.profile.activations] == layers
    assert found["swap"] == whole


@pytest.mark.parametrize("name", NETS)
def test_score_mode_is_train_mode_where_there_is_no_dropout(name):
    given = setting(name, "f64")
    assert score(given.net, given.batch, "swap")["swap"] == PATTERNS[name]["train"][1]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NETS)
def test_zico_over_two_mini_batches(name, dtype):
    given = setting(name, dtype)
    wanted, difference = ZICO[name]
    found = score(given.net, given.batch, ZiCo(granularity="batch", batches=2), mode="train")
    assert found["zico"] == pytest.approx(wanted, rel=tolerance(dtype, difference, 1e-3))
    terms = {row.name: row.terms["zico"] for row in found.profile.weights}
    assert terms.keys() == ZICO_LAYERS[name].keys()
    for layer, value in ZICO_LAYERS[name].items():
        assert terms[layer] == pytest.approx(value, rel=1e-6 if dtype == "f64" else 2e-2), layer


@pytest.mark.parametrize("name", NETS)
def test_counts(name):
    given = setting(name, "f32")
    found = score(given.net, given.batch, ["params", "flops"])
    assert found["params"] == PARAMETERS[name]
    assert found["flops"] == MACS[name]


# ---------------------------------------------------------------- proxies with passes of their own

AZ = {"features": ("stem.relu", "res.relu2", "down.relu2", "last.relu")}  # of the convolutional network
TWICE = [0, 0, 0, 1, 1, *range(2, 13)]
# (network, proxy, mode, samples of the batch): (value in float64, relative difference of float32)
OWN = [
    ("cnn", "synflow", "train", None, 17.01598301065369, 0.0),
    ("vit", "synflow", "train", None, 6.1537083817389275, 0.0),
    ("cnn", SynFlow(log=False), "train", None, 24544123.395382356, 0.0),
    ("cnn", SynFlow(norms="kept", log=False), "train", None, 15.886487191736041, 0.0),
    ("vit", SynFlow(norms="kept", log=False), "train", None, 470.4587966909618, 0.0),
    ("vit", "tf_tas", "train", None, 1823.3744075924665, 1.2818431347594522e-06),
    ("cnn", "jacov", "train", None, -16.283578331932087, 1.3056185598689616e-09),
    ("vit", "jacov", "train", None, -17.089722982224487, 1.9169042854694794e-09),
    ("cnn", "epe_nas", "train", None, 132.39877655438897, 8.681001691259003e-07),
    ("vit", "epe_nas", "train", None, 108.27599526414487, 2.3211444725558057e-08),
    ("cnn", "grasp", "train", None, -0.058129939887474835, 1.479034260007205e-06),
    ("vit", "grasp", "train", None, -79.1504814843078, 7.798889111434215e-07),
    ("cnn", "gradsign", "train", None, 22090.0, 0.0),
    ("cnn", "gradsign", "eval", None, 21238.0, 0.0),
    ("vit", "gradsign", "train", None, 46490.0, 0.0),
    ("cnn", GradSign(reduction="mean"), "train", None, 3.2447121034077555, 3.3674330994300262e-09),
    ("vit", GradSign(reduction="mean"), "train", None, 3.634302689180738, 2.0103265924760942e-08),
    ("cnn", XiGSNR(batches=4), "train", None, 7599.559357825983, 9.221163146889119e-08),
    ("vit", XiGSNR(batches=4), "train", None, 12708.652011971457, 1.7979118013155543e-07),
    ("cnn", XiGSNR(batches=4, accumulate=True), "train", None, 53708.5701519412, 1.7425420363725432e-06),
    ("vit", XiGSNR(batches=4, accumulate=True), "train", None, 203145.99478847103, 5.640599958273241e-07),
    ("cnn", XiGSNR(batches=8), "train", range(8), 1228.241325035321, 2.0526350259042294e-07),
    ("vit", XiGSNR(batches=8), "train", range(8), 2660.3420589782872, 6.7520122762286536e-09),
    ("cnn", "te_nas_kappa", "train", None, 9.092186258055781, 4.932187669099533e-07),
    ("vit", "te_nas_kappa", "train", None, 26.110976694711912, 7.852136498038561e-07),
    ("cnn", TENASRegions(inputs="batch"), "train", None, 16.0, 0.0),
    ("cnn", TENASRegions(inputs="batch"), "train", TWICE, 13.0, 0.0),
    ("cnn", "t_cet", "train", None, 4087.165949922147, 4.365806870856101e-08),
    ("vit", "t_cet", "train", None, 5652.353071235811, 7.862021069746859e-08),
    ("cnn", TCET(saliency="synflow"), "train", None, 4418.749489181839, 0.0),
    ("vit", TCET(saliency="synflow"), "train", None, 5410.055815387649, 0.0),
    ("cnn", Zen(init=None), "train", None, 1.3326472582403102, 8.454786518076611e-07),
    ("cnn", Zen(init=None, repeats=3), "train", None, 1.3791381947744255, 7.226571923255266e-07),
    ("cnn", NASGraph(init=None, norms=False), "train", None, 16.503597122302157, 0.0),
    ("cnn", AZExpressivity(**AZ), "train", None, 9.639299982401996, 1.4774587674782835e-07),
    ("cnn", AZProgressivity(**AZ), "train", None, 0.1415414266654187, 9.648446147167216e-06),
    ("cnn", AZTrainability(**AZ), "train", None, -0.038325503690742536, 3.527563559800356e-07),
    ("vit", "az_expressivity", "eval", None, 10.23485685744879, 1.3190634568039121e-09),
    ("vit", "az_trainability", "eval", None, -0.4942055521356325, 1.6772921308922413e-07),
]


def fixed_draws(monkeypatch, name):
    """The noise and the signs that the published codes were given."""
    rng = np.random.RandomState(1)
    noise = [rng.standard_normal((16, 3, 16, 16)).astype(np.float32) for _ in range(2)] * 3
    rng = np.random.RandomState(2)
    shapes = {"cnn": [(16, 8, 16, 16), (16, 16, 8, 8), (16, 32, 4, 4)], "vit": [(16, 17, 24)] * 3}
    signs = {net: [2 * rng.randint(0, 2, shape) - 1 for shape in shapes[net]] for net in ("cnn", "vit")}[name]
    monkeypatch.setattr(perturbation, "normal_like", lambda tensor, source: torch.from_numpy(noise.pop(0)).to(tensor))
    monkeypatch.setattr(features, "signs_like", lambda tensor, source: torch.from_numpy(signs.pop(0)).to(tensor))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("name", "proxy", "mode", "samples", "wanted", "difference"), OWN)
def test_published_value_of_a_pass_of_its_own(name, proxy, mode, samples, wanted, difference, dtype, monkeypatch):
    given = setting(name, dtype)
    fixed_draws(monkeypatch, name)
    batch = given.batch
    if samples is not None:
        batch = Batch(batch.inputs[list(samples)], batch.targets[list(samples)])
    (found,) = score(given.net, batch, proxy, mode=mode).values()
    assert found == pytest.approx(wanted, rel=tolerance(dtype, difference))


def test_twin_images_are_the_singular_case_of_jacov():
    given = setting("cnn", "f64")
    inputs = given.batch.inputs.clone()
    inputs[1] = inputs[0]
    found = score(given.net, Batch(inputs, given.batch.targets), ["jacov", "te_nas_kappa", "nwot"], mode="train")
    assert found["jacov"] == pytest.approx(-100003.863, rel=1e-4)
    assert math.isnan(found["te_nas_kappa"]) and "singular" in found.reasons["te_nas_kappa"]
    assert math.isnan(found["nwot"]) and "singular" in found.reasons["nwot"]


def test_layers_of_t_cet():
    given = setting("cnn", "f64")
    wanted = {
        "stem.conv": 112.26414489746094,
        "res.conv1": 109.32695007324219,
        "res.conv2": 110.52505493164062,
        "down.short": 97.98270416259766,
        "down.conv1": 96.41687774658203,
        "down.conv2": 93.90397644042969,
        "last.conv": 85.71125793457031,
        "head": 0.0,
    }
    from lswag_hooks.functional.t_cet import expressivity
    from lswag_hooks.objective import resolve_objective
    from lswag_hooks.passes import LayerOutputs, run_passes

    passed = run_passes(ProbeSession(given.net, "train"), given.batch, resolve_objective(given.net), [LayerOutputs()])
    found = {name: expressivity(kernel) for name, kernel in passed.found[LayerOutputs()].items()}
    assert found == pytest.approx(wanted, rel=1e-6)
