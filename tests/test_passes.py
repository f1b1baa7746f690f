"""Passes beside the main one: shared, kept apart, and defined only where they make sense."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lswag_hooks import Batch, InputError, score
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.passes import Flow, Hessian, Jacobian, MiniBatches, Singles, base, features, flow
from lswag_hooks.proxies import (
    TCET,
    AZExpressivity,
    AZTrainability,
    GraSP,
    NASGraph,
    SynFlow,
    TENASKappa,
    TENASRegions,
    XiGSNR,
    Zen,
    list_proxies,
    proxy_class,
)


def cnn(norm=nn.BatchNorm2d, act=nn.ReLU):
    torch.manual_seed(4)
    block = [nn.Sequential(nn.Conv2d(a, b, 3, s, 1), norm(b), act()) for a, b, s in ((3, 6, 1), (6, 8, 2), (8, 8, 1))]
    return nn.Sequential(*block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double()


def make_batch(samples=8, size=8):
    generator = torch.Generator().manual_seed(5)
    return Batch(torch.randn(samples, 3, size, size, generator=generator).double(), torch.arange(samples) % 4)


def counted(monkeypatch, *kinds):
    """How often passes begin."""
    begun = []
    for kind in kinds:
        name = "watch" if issubclass(kind, base.Reading) else "run"
        original = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, *a, o=original: (begun.append(self), o(self, *a))[1])
    return begun


def test_proxies_that_need_equal_passes_share_one(monkeypatch):
    runs = counted(monkeypatch, Jacobian, Flow, features.Features)
    asked = ["jacov", "epe_nas", "synflow", TCET(saliency="synflow"), "az_expressivity", "az_trainability"]
    score(cnn(), make_batch(), [*asked, SynFlow(norms="kept", label="other")])
    assert runs.count(Jacobian()) == 1 and runs.count(Flow()) == 1 and runs.count(features.Features()) == 1
    assert len(runs) == 4


@pytest.mark.parametrize(
    "asked, forwards",
    [
        (["jacov", "az_trainability"], 1),
        (["az_expressivity", AZExpressivity(features=("0", "2"), label="named"), "epe_nas"], 1),
        (["jacov", AZTrainability(init="kaiming")], 2),  # other weights
        (["jacov", "snip", "az_expressivity"], 1),  # the main pass
        (["jacov", "swap", AZTrainability(init="kaiming")], 2),
    ],
)
def test_passes_that_read_the_network_as_it_is_share_a_forward_pass(asked, forwards):
    net, batch, calls = cnn(), make_batch(), []
    net.register_forward_pre_hook(lambda module, args: calls.append(args))
    together = score(net, batch, asked)
    assert len(calls) == forwards
    for proxy, value in zip(asked, together.values(), strict=True):
        assert list(score(net, batch, proxy).values()) == [value]


class Spent(torch.autograd.Function):
    """Can be gone back through a single time, as checkpointed segments can."""

    @staticmethod
    def forward(ctx, x):
        ctx.spent = False
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.spent:
            raise ArithmeticError("gone through before")
        ctx.spent = True
        return gradient


class Spending(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = cnn()

    def forward(self, x):
        return self.inner[1:](Spent.apply(self.inner[0](x)))


@pytest.mark.parametrize("others", [[], ["snip"]])
def test_passes_that_cannot_share_a_forward_pass_take_one_each(others):
    asked = ["jacov", AZTrainability(features=("inner.0", "inner.1"))]
    found = score(Spending(), make_batch(), [*asked, *others])
    assert not found.reasons
    for name in ("jacov", *others):
        assert found[name] == score(cnn(), make_batch(), name)[name]


class Prepared(nn.Module):
    """Steps without weights before the first layer, on the very tensor that was given."""

    def __init__(self):
        super().__init__()
        self.scale, self.fold, self.inner = nn.Hardtanh(inplace=True), nn.PixelUnshuffle(2), cnn()
        self.inner[0][0] = nn.Conv2d(12, 6, 3).double()

    def forward(self, x):
        return self.inner(self.fold(self.scale(x)))


def test_shared_gradients_of_the_inputs_show_in_no_feature():
    net, batch = Prepared(), make_batch()
    asked = AZTrainability(features=("scale", "fold", "inner.0", "inner.1", "inner.2"))
    kept, alone = batch.inputs.clone(), score(net, batch, asked)["az_trainability"]
    with ProbeSession(net) as session:
        assert len(asked.passes[0].run(session, batch, None).gains) == 2  # from inner.0 and from inner.1
    for others in (["jacov"], ["jacov", "lswag"], ["lswag"]):
        assert score(net, batch, [*others, asked])["az_trainability"] == alone
    assert torch.equal(batch.inputs, kept)


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU])
def test_a_pass_sees_nothing_of_the_others(act):
    net, batch = cnn(act=act), make_batch()
    asked = [name for name in list_proxies() if proxy_class(name)().passes]
    together = score(net, batch, asked, seed=3)
    for name in reversed(asked):
        if name in together.reasons:
            assert name == "tf_tas"
        else:
            assert score(net, batch, name, seed=3)[name] == together[name], name


class Once(torch.autograd.Function):
    """Has a derivative, but no second one."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise ArithmeticError("no second derivative")
        return 2 * gradient


class Rough(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = cnn()

    def forward(self, x):
        return Once.apply(self.inner(x))


def test_a_pass_that_fails_takes_only_its_own_proxies_with_it():
    found = score(Rough(), make_batch(), ["grasp", "snip", "jacov", "synflow", "lswag"])
    assert list(found.reasons) == ["grasp"] and "hessian" in found.reasons["grasp"]
    assert all(math.isfinite(found[name]) for name in ("snip", "jacov", "synflow", "lswag"))


def test_interruption_gets_through(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Jacobian, "watch", interrupt)
    for asked in (["jacov"], ["jacov", "snip"], ["jacov", "az_expressivity"]):
        with pytest.raises(KeyboardInterrupt):
            score(cnn(), make_batch(), asked)


def test_loss_that_changes_what_it_is_given_is_not_read_along():
    def loss(outputs, targets):
        return F.cross_entropy(outputs.mul_(targets[0] + 3), targets)

    found = score(cnn(), make_batch(), ["jacov", "snip"], loss=loss)
    assert found["jacov"] == score(cnn(), make_batch(), "jacov")["jacov"]
    assert found["snip"] == score(cnn(), make_batch(), "snip", loss=loss)["snip"]


def test_unmerged_passes_are_refused_where_processes_share_a_batch():
    net, batch = cnn(), make_batch()
    passed = base.run_passes(
        ProbeSession(net), batch, None, [Jacobian(), Flow()], refused="is not merged over processes"
    )
    assert list(passed.found) == [Flow()] and "processes" in passed.reasons[Jacobian()]


def test_whole_batch_that_does_not_fit():
    found = score(cnn(), make_batch(), ["snip", "jacov", "synflow"], mode="eval", max_memory=30_000)
    assert list(found.reasons) == ["jacov"] and "max_memory" in found.reasons["jacov"]


# ---------------------------------------------------------------- against plain loops


@pytest.mark.parametrize("layers", [3, 40, 400])
def test_synflow_never_overflows(layers):
    net = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(layers)])
    for layer in net:
        nn.init.constant_(layer[0].weight, -5.0)
        nn.init.zeros_(layer[0].bias)
    # every layer passes on ten times its input: each layer's sum is that of the outputs
    wanted = math.log(2 * layers) + layers * math.log(10)
    batch = Batch(torch.randn(4, 2), torch.arange(4) % 2)
    assert score(net, batch, "synflow")["synflow"] == pytest.approx(wanted, rel=1e-9)


def test_synflow_with_biases_is_the_same_when_shrunk(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(flow, "SHRINK", (1e-10, 1e-20))
    net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(6)])
    batch = Batch(torch.randn(4, 4), torch.arange(4))
    plain = score(net, batch, "synflow")["synflow"]
    shrunk = flow._shrunk(net, torch.ones(1, 4))
    total = sum(float((layer.weight * layer.gradient).sum()) for layer in shrunk.layers)
    assert math.log(total) + shrunk.log_scale == pytest.approx(plain, rel=1e-12)


def test_nothing_flows():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.zeros_(net[2].weight)
    batch = Batch(torch.randn(4, 3), torch.arange(4) % 2)
    with pytest.raises(InputError, match="nothing flows"):
        score(net, batch, "synflow")


def test_grasp_by_the_hessian_itself():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    batch = Batch(torch.randn(6, 3).double(), torch.arange(6) % 2)
    first, second = net[0].weight.detach(), net[2].weight.detach()

    def loss(flat):
        a, b = flat[:12].view(4, 3), flat[12:].view(2, 4)
        hidden = F.gelu(F.linear(batch.inputs[:5], a, net[0].bias.detach()))
        return F.cross_entropy(F.linear(hidden, b, net[2].bias.detach()), batch.targets[:5])

    flat = torch.cat([first.flatten(), second.flatten()])
    gradient = torch.autograd.functional.jacobian(loss, flat)
    hessian = torch.autograd.functional.hessian(loss, flat)
    wanted = -float(flat @ hessian @ gradient)
    assert score(net, batch, GraSP(samples=5))["grasp"] == pytest.approx(wanted, rel=1e-9)


def test_grasp_of_inputs_that_are_channels_last():
    net, batch = cnn(), make_batch()
    turned = Batch(batch.inputs.to(memory_format=torch.channels_last), batch.targets)
    assert score(net, turned, "grasp")["grasp"] == pytest.approx(score(net, batch, "grasp")["grasp"], rel=1e-9)
    assert not turned.inputs.is_contiguous()


def test_kappa_by_a_loop():
    net, batch = cnn(), make_batch()
    rows = []
    for index in range(4):
        outputs = net.train()(batch.inputs[:4])
        wanted = [p for name, p in net.named_parameters() if "weight" in name]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(outputs[index].sum(), wanted)]))
    values = torch.linalg.svdvals(torch.stack(rows)) ** 2
    found = score(net, batch, TENASKappa(samples=4), mode="train")["te_nas_kappa"]
    assert found == pytest.approx(float(values[0] / values[-1]), rel=1e-6)
    assert not TENASKappa.higher_is_better


def test_epe_nas_with_more_than_a_hundred_classes():
    from lswag_hooks.functional import correlation, epe_nas

    rows = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([5, 5, 120, 120, 120, 7])
    terms = []
    for label in (5, 7, 120):
        own = [i for i in range(6) if labels[i] == label]
        logs = [math.log(abs(float(correlation(rows)[i, j])) + 1e-5) for i in own for j in own]
        terms.append(math.fsum(logs) / len(own))
    wanted = sum(abs(a - b) for a in terms for b in terms) / 3
    assert epe_nas(rows, labels, classes=200) == pytest.approx(wanted, rel=1e-12)


def test_regions_of_a_single_unit():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(1, 2)

        def forward(self, x):
            return self.fc((x.mean((1, 2, 3), keepdim=False)[:, None] - 0.0).relu())

    found = score(Line().double(), make_batch(), TENASRegions(samples=50))
    assert found["te_nas_regions"] == 2


def test_features_of_less_than_full_rank_have_an_entropy():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.Flatten(), nn.Linear(4096, 4)).double()
    found = score(net, make_batch(), AZExpressivity(features=("0", "2")))["az_expressivity"]
    assert 0 < found < math.log(3) + math.log(64)


def test_channels_of_concatenated_convolutions():
    class Joined(nn.Module):
        """Two convolutions side by side, whose channels a third reads: it answers to those of the second alone."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(5, 1, 1)
            self.head = nn.Linear(1, 4)
            with torch.no_grad():
                self.c.weight.copy_(torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0]).view(1, 5, 1, 1))
                for conv in (self.a, self.b):
                    conv.weight.fill_(1.0)
                for conv in (self.a, self.b, self.c):
                    conv.bias.zero_()

        def forward(self, x):
            return self.head(self.c(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))

    found = score(Joined().double(), make_batch(), NASGraph(init=None))["nas_graph"]
    # input to a: 6 edges, to b: 9, b to c: 2, c to the identity: 1; nodes 3 + 2 + 3 + 1 + 1
    assert found == pytest.approx(2 * 18 / 10)


# ---------------------------------------------------------------- where a proxy is not defined


class Tokens(nn.Module):
    """Patches, then linear layers and LayerNorm alone."""

    def __init__(self):
        super().__init__()
        self.patch, self.first, self.second = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6), nn.Linear(6, 6)
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(3)])
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + F.gelu(self.first(self.norms[0](x)))
        x = x + F.gelu(self.second(self.norms[1](x)))
        return self.head(self.norms[2](x).mean(1))


@pytest.mark.parametrize(
    ("net", "proxy", "reason"),
    [
        (lambda: cnn(norm=lambda width: nn.GroupNorm(1, width)), "zen", "no BatchNorm"),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), Tokens()).double(), "zen", "no feature map"),
        (lambda: Tokens().double(), "az_progressivity", "transformers"),
        (lambda: Tokens().double(), "te_nas_regions", "does not take images of 3 px"),
        (cnn, "tf_tas", "attention"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double(), "nas_graph", "no convolution"),
        (cnn, AZExpressivity(features=("nothing",)), "fewer than two features"),
    ],
)
def test_undefined_with_a_reason(net, proxy, reason):
    found = score(net(), make_batch(), [proxy, "params"])
    (key,) = found.reasons
    assert math.isnan(found[key]) and reason in found.reasons[key]
    assert not found.broken  # a second try would give the same


def test_zen_without_norms_if_asked_for():
    found = score(cnn(norm=lambda width: nn.GroupNorm(1, width)), make_batch(), Zen(bare=True))
    assert math.isfinite(found["zen"])
    assert math.isfinite(score(Tokens().double(), make_batch(), Zen(bare=True))["zen"])


def test_zen_by_the_batch_itself():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-12), nn.Flatten(), nn.Linear(256, 4)).double()
    by_batch = score(net, make_batch(), Zen(scale="batch"))["zen"]
    nn.init.constant_(net[0].bias, 3.0)
    assert score(net, make_batch(), Zen(scale="batch"))["zen"] == by_batch, "the weights are drawn anew"
    assert score(net, make_batch(), Zen(scale="batch", seed=1))["zen"] != by_batch


def test_models_of_token_numbers():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 3))
    batch = Batch(torch.arange(12).view(4, 3) % 5, torch.arange(4) % 3)
    found = score(net, batch, ["jacov", "synflow", "zen", "te_nas_regions", "grasp", "gradsign", "snip"])
    assert set(found.reasons) == {"jacov", "synflow", "zen", "te_nas_regions"}
    assert "whole numbers" in found.reasons["jacov"] and "whole numbers" in found.reasons["synflow"]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_part_of_the_batch(reduction):
    net, batch = cnn(), make_batch(8)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    whole = score(net, Batch(batch.inputs[:4], batch.targets[:4]), "grasp")["grasp"]
    assert score(net, batch, GraSP(samples=4), loss=loss)["grasp"] == pytest.approx(whole, rel=1e-9)
    assert Hessian(4) != Hessian(None)


def test_what_a_pass_showed_goes_when_nobody_needs_it_any_more(monkeypatch):
    """Most of it is as large as the weights."""
    shown, alive = {}, []

    class Shown(list):
        """A list that can be referred to weakly."""

    for kind in (Hessian, Singles, MiniBatches):

        def run(self, *args, original=kind.run):
            alive.append({name for name, found in shown.items() if found() is not None})
            result = Shown(original(self, *args))
            shown[self.need] = weakref.ref(result)
            return result

        monkeypatch.setattr(kind, "run", run)
    asked = ["grasp", "gradsign", GraSP(label="again"), "xi_gsnr", XiGSNR(xi=1e-3, label="other")]
    batch = make_batch()
    score(cnn(), batch, asked, mode="eval")
    assert alive == [set()] * 3 and len(shown) == 3


@pytest.mark.parametrize("name", ["grasp", "jacov", "az_trainability", "synflow", "gradsign"])
def test_a_pass_of_its_own_keeps_to_max_memory(name):
    """It is broken off with the way out, takes nothing else with it, and below the bound nothing changes."""
    net, batch = cnn(norm=nn.Identity), make_batch()
    plain = score(net, batch, [name, "params"])
    assert dict(score(net, batch, [name, "params"], max_memory="1MB")) == dict(plain)
    found = score(net, batch, [name, "params"], max_memory="3KB")
    assert math.isnan(found[name]) and found["params"] == plain["params"]
    assert "3.07kB of max_memory" in found.reasons[name] and name in found.broken
    one = name in ("synflow", "gradsign")  # which take one sample at a time anyway
    assert found.reasons[name].endswith("smaller inputs" if one else "fewer samples")


def test_a_bound_is_of_one_forward_pass():
    """Samples one at a time hold what one of them does; GraSP, which goes back twice, three times as much."""
    net, batch = cnn(norm=nn.Identity), make_batch()
    sizes = []

    def note(module, inputs, output):
        sizes.append(output.nelement() * output.element_size())

    kinds = (nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Linear)  # the others give what they were given
    handles = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, kinds)]
    net(batch.inputs)
    for handle in handles:
        handle.remove()
    whole = sum(sizes)
    for name, needed in (("jacov", whole), ("gradsign", whole // 8), ("grasp", 3 * whole)):
        assert not math.isnan(score(net, batch, [name, "params"], max_memory=needed)[name])
        assert math.isnan(score(net, batch, [name, "params"], max_memory=needed - 8)[name])


class Fallback(nn.Module):
    """Goes another way where something fails."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow, self.head = nn.Linear(12, 64), nn.Linear(64, 8), nn.Linear(8, 5)

    def forward(self, x):
        try:
            x = self.narrow(torch.tanh(self.wide(x)))
        except Exception:
            x = x[:, :8].detach()
        return self.head(torch.relu(x))


def test_a_model_cannot_catch_the_bound():
    net, batch = Fallback(), Batch(torch.randn(16, 12), torch.arange(16) % 5)
    found = score(net, batch, ["grasp", "params"], max_memory="4KB")
    assert math.isnan(found["grasp"]) and "max_memory" in found.reasons["grasp"]
    with pytest.raises(InputError, match="max_memory"):
        score(net, batch, "snip", max_memory="200")


class Inner(nn.Module):
    """Takes a gradient on its way, which torch refuses while others watch what is kept for a backward pass."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.b(torch.relu(self.a(x + torch.func.grad(lambda y: torch.tanh(y).square().sum())(x))))


def test_gradients_within_a_model_are_no_reason_to_miss_a_score():
    found = score(Inner(), Batch(torch.randn(16, 12), torch.arange(16) % 5), ["flops", "grasp", "jacov", "xi_gsnr"])
    assert found["flops"] == 12 * 8 + 8 * 5 and not any(map(math.isnan, found.values()))


def test_the_graph_of_layers_does_not_look_past_a_checkpointed_segment():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cnn()

        def forward(self, x):
            x = checkpoint(self.net[:2], x, use_reentrant=True)
            return self.net[2:](x)

    with pytest.raises(InputError, match="nas_graph: activation checkpointing is on"):
        score(Checkpointed(), make_batch(), "nas_graph")
