"""`init="wake"`: what starts at exactly zero is woken on a copy, and every change is listed."""

import warnings

import pytest
import timm
import torch
from torch import nn

from lswag_hooks import Batch, InputError, UnsupportedError, score
from lswag_hooks.wake import wake

CLASSES = 4


def bits(net):
    """Every byte of a model, and where it lies."""
    return {name: (tensor.data_ptr(), tensor.numpy().tobytes()) for name, tensor in net.state_dict().items()}


def images(samples=4, size=96):
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(samples, 3, size, size, generator=generator), torch.arange(samples) % CLASSES)


def vectors(samples=9):
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(samples, 5, generator=generator), torch.arange(samples) % CLASSES)


class Scaled(nn.Module):
    """A residual block whose layer scale is zero."""

    def __init__(self, name="gamma", shape=(6,)):
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.scale_name = name
        self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(x + getattr(self, self.scale_name).reshape(-1) * torch.relu(self.inner(x)))


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return score(*args, **kwargs)


def test_resnet_of_timm():
    torch.manual_seed(0)
    net, batch = timm.create_model("resnet18", num_classes=CLASSES), images()
    before = bits(net)
    with pytest.warns(UserWarning, match=r"98% of the weights have a gradient of exactly zero.*init='wake'"):
        asleep = score(net, batch)
    awake = quiet(net, batch, init="wake")
    assert bits(net) == before
    assert asleep.coverage.zero_gradient_share > 0.97 and awake.coverage.zero_gradient_share < 0.01
    gains = [name for name, p in net.named_parameters() if name.endswith("bn2.weight")]
    assert awake.changes == [f"{name}: set to one" for name in gains] and len(gains) == 8
    assert asleep.changes == [] and asleep.settings["init"] is None and awake.settings["init"] == "wake"
    assert awake["lswag"] > asleep["lswag"]
    assert awake.to_dict()["changes"] == awake.changes
    assert {row.name for row in awake.profile.weights} == {row.name for row in asleep.profile.weights}


def test_the_score_is_that_of_the_woken_copy():
    net, batch = Scaled(), vectors()
    copy, changes = wake(net, 5)
    wanted = score(copy, batch, ["lswag", "snip", "l2_norm"], seed=5)
    found = score(net, batch, ["lswag", "snip", "l2_norm"], seed=5, init="wake")
    assert dict(found) == dict(wanted) and found.changes == changes == ["gamma: set to one"]


@pytest.mark.parametrize("name", ["gamma", "gamma_1", "ls1", "layer_scale", "lambda_q", "alpha", "skipinit_gain", "ls"])
@pytest.mark.parametrize("shape", [(6,), (6, 1, 1), (1, 1, 6)])
def test_layer_scales(name, shape):
    net = Scaled(name, shape)
    before = bits(net)
    copy, changes = wake(net)
    assert changes == [f"{name}: set to one"]
    assert bits(net) == before and not getattr(net, name).any()
    assert torch.equal(getattr(copy, name), torch.ones(shape))
    assert isinstance(getattr(copy, name), nn.Parameter) and getattr(copy, name).requires_grad


def test_scalar_gain():
    net = Scaled("gain", ())
    copy, changes = wake(net)
    assert changes == ["gain: set to one"] and copy.gain.item() == 1


def test_zero_head():
    net, batch = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, CLASSES)), vectors()
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    before = bits(net)
    with pytest.warns(UserWarning, match="zero head"):
        asleep = score(net, batch)
    awake = quiet(net, batch, init="wake")
    assert bits(net) == before
    assert asleep.coverage.zero_gradient_share == pytest.approx(40 / 72) and awake.coverage.zero_gradient_share == 0
    assert awake.changes == ["2.weight: drawn anew"] and awake.coverage.dead == []
    assert asleep.coverage.dead == ["0"]


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_warning_at_half_of_the_weights(share):
    """A zero head puts the layer in front of it to sleep, and not itself."""
    hidden = 10
    net = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 4 if share > 0.5 else 8))
    nn.init.zeros_(net[2].weight)
    batch = vectors()
    if share > 0.5:
        with pytest.warns(UserWarning, match="exactly zero"):
            result = score(net, batch)
        assert len(result.notes) == 1
    else:
        result = quiet(net, batch)
        assert result.notes == []
    assert (result.coverage.zero_gradient_share > 0.5) == (share > 0.5)


@pytest.mark.parametrize("name", ["conv", "in_proj_weight", "embedding"])
def test_other_zero_weights_are_drawn_anew(name):
    net = nn.ModuleDict(
        {"conv": nn.Conv2d(3, 4, 3), "attention": nn.MultiheadAttention(4, 2), "table": nn.Embedding(5, 4)}
    )
    chosen = {"conv": "conv.weight", "in_proj_weight": "attention.in_proj_weight", "embedding": "table.weight"}[name]
    with torch.no_grad():
        net.get_parameter(chosen).zero_()
    copy, changes = wake(net)
    # a new attention has zero biases, which are nobody's business
    assert changes == [f"{chosen}: drawn anew"]
    assert copy.get_parameter(chosen).all() and not net.get_parameter(chosen).any()


def test_what_may_be_zero_stays_zero():
    """Biases, shifts of norms, and tokens and tables that join the data stop no gradient."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 6))
            self.pos_embed = nn.Parameter(torch.zeros(1, 4, 6))
            self.pixels = nn.Parameter(torch.zeros(6))
            self.norm, self.fc = nn.LayerNorm(6), nn.Linear(6, 3)
            nn.init.zeros_(self.fc.bias)

    copy, changes = wake(Tokens())
    assert changes == []
    for name in ("cls_token", "pos_embed", "pixels", "norm.bias", "fc.bias"):
        assert not copy.get_parameter(name).any(), name


def test_partly_zero_is_left_alone():
    net = nn.Linear(4, 3)
    with torch.no_grad():
        net.weight[:2] = 0
    copy, changes = wake(net)
    assert changes == [] and torch.equal(copy.weight, net.weight)


def test_norm_gains_of_all_kinds():
    ours = [nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.RMSNorm(4)]
    theirs = [timm.layers.LayerNorm2d(4), timm.layers.BatchNormAct2d(4), timm.layers.GroupNormAct(4, num_groups=2)]
    norms = nn.ModuleList([*ours, *theirs])
    for norm in norms:
        nn.init.zeros_(norm.weight)
    copy, changes = wake(norms)
    assert changes == [f"{index}.weight: set to one" for index in range(len(norms))]
    assert all(torch.equal(norm.weight, torch.ones(4)) for norm in copy)


def test_draws_follow_the_seed_and_leave_the_random_state():
    net = nn.Linear(5, 3)
    nn.init.zeros_(net.weight)
    state = torch.get_rng_state()
    same, again, other = (wake(net, seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(same, again) and not torch.equal(same, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_frozen_weights_and_hooks_of_the_original_stay():
    net = Scaled()
    net.inner.weight.requires_grad_(False)
    net.stem.weight.grad = torch.ones(6, 5)
    calls = []
    handle = net.register_forward_hook(lambda module, inputs, output: calls.append(module))
    grad = net.stem.weight.grad
    found = score(net, vectors(), init="wake")
    assert net.stem.weight.grad is grad and torch.equal(grad, torch.ones(6, 5))
    assert not net.inner.weight.requires_grad and found.coverage.frozen == ["inner.weight"]
    assert list(net._forward_hooks) == [handle.id] and all(module is not net for module in calls)


def test_tied_weights_are_woken_once_and_stay_tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    nn.init.zeros_(net[0].weight)
    copy, changes = wake(net)
    assert changes == ["0.weight: drawn anew"] and copy[2].weight is copy[0].weight


def test_a_model_that_needs_nothing():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    found = score(net, vectors(), init="wake")
    assert found.changes == [] and found["lswag"] == score(net, vectors())["lswag"]


def test_a_model_that_cannot_be_copied():
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, CLASSES)

        def __deepcopy__(self, memo):
            raise TypeError("one of a kind")

        def forward(self, x):
            return self.fc(x.relu())

    net = Locked()
    with pytest.raises(UnsupportedError, match="cannot be copied: one of a kind"):
        score(net, vectors(), init="wake")
    assert score(net, vectors())["lswag"] > 0


@pytest.mark.parametrize("init", ["awake", "Wake", True, 1, ""])
def test_unknown_init(init):
    with pytest.raises(InputError, match="init="):
        score(Scaled(), vectors(), init=init)


def test_wake_and_verify():
    """Verification is of the copy, whose rows say something."""
    found = score(Scaled(), vectors(), init="wake", verify=True)
    assert all(row.passed and not row.vacuous for row in found.verification)
    asleep = score(Scaled(), vectors(), verify=True)
    assert [row.layer for row in asleep.verification if row.vacuous] == ["inner"]
