"""`verify=True` passes what is right and catches what is not, on the model at hand."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lswag_hooks import Batch, score
from lswag_hooks.hooks.rules.conv import GroupedConvGradient, ShiftedConvGradient
from lswag_hooks.hooks.rules.derived import DerivedGradient
from lswag_hooks.hooks.rules.linear import LinearGradient
from lswag_hooks.objective import resolve_objective
from lswag_hooks.verify import VerificationRow, verify_gradients

CLASSES = 4


def cnn(width=6, norm=True):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(width, 8, 3, stride=2, groups=2, bias=False),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(8 * 9, CLASSES),
    )


def vit():
    torch.manual_seed(1)
    return timm.models.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=CLASSES, init_values=0.5
    )


def swin():
    torch.manual_seed(1)
    return timm.models.SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=CLASSES
    )


def multihead():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, stride=4)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x):
            return self.head(self.layer(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(1)
    return Net()


NETS = {"cnn": (cnn, 8), "vit": (vit, 16), "swin": (swin, 32), "multihead": (multihead, 16)}


def images(size, samples=5):
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(samples, 3, size, size, generator=generator), torch.arange(samples) % CLASSES)


def case(kind):
    make, size = NETS[kind]
    return make(), images(size)


@pytest.mark.parametrize("kind", NETS)
def test_what_is_right_passes(kind):
    net, batch = case(kind)
    found = score(net, batch, verify=True)
    assert {row.layer for row in found.verification} == {row.name for row in found.profile.weights}
    for row in found.verification:
        assert row.passed and not row.vacuous, row
        assert row.sum_error < 1e-4 and row.sample_error is not None and row.sample_error < 1e-4, row
    assert not [note for note in found.notes if "verification" in note]


@pytest.mark.parametrize("seed", range(5))
def test_whichever_sample_is_drawn(seed):
    net, batch = case("multihead")
    rows = verify_gradients(net, batch, resolve_objective(net), seed=seed)
    assert all(row.passed and row.sample_error is not None for row in rows)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions(reduction):
    net, batch = case("cnn")
    found = score(net, batch, loss=nn.CrossEntropyLoss(reduction=reduction), verify=True)
    assert all(row.passed and row.sample_error is not None for row in found.verification)


def test_wrong_reduction_is_caught():
    """A loss that sums, taken for one that averages."""
    net, batch = case("cnn")

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")

    with pytest.warns(UserWarning, match="fail verification"):
        found = score(net, batch, loss=loss, verify=True)
    assert not any(row.passed for row in found.verification)
    assert all(row.passed for row in score(net, batch, loss=loss, reduction="sum", verify=True).verification)


def test_verification_only_on_request():
    net, batch = case("cnn")
    assert score(net, batch).verification is None


# ---------------------------------------------------------------- broken rules


RULES = {
    "linear": (LinearGradient, "vit"),
    "interleaved": (LinearGradient, "multihead"),
    "windowed": (LinearGradient, "swin"),
    "grouped": (GroupedConvGradient, "cnn"),
    "shifted": (ShiftedConvGradient, "wide"),
}


def broken(monkeypatch, rule, change):
    """Put a rule out of order: ``change`` gets the right gradients of all samples."""
    right = rule.block

    def wrong(self, samples, rows):
        return change(right(self, slice(0, self.samples), rows))[samples]

    monkeypatch.setattr(rule, "block", wrong)


def broken_case(kind):
    if kind == "wide":  # wide enough for the other route of convolutions
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 4)
        )
        return net, images(8)
    return case(kind)


@pytest.mark.parametrize("name", RULES)
def test_wrong_order_of_samples_is_caught_by_the_single_sample(monkeypatch, name):
    rule, kind = RULES[name]
    net, batch = broken_case(kind)
    broken(monkeypatch, rule, lambda gradients: gradients.roll(1, 0))
    with pytest.warns(UserWarning, match="fail verification.*do not trust this score"):
        rows = score(net, batch, verify=True).verification
    failed = [row for row in rows if not row.passed]
    assert failed and len(failed) < len(rows) + 1
    for row in failed:
        assert row.sum_error < 1e-4 and row.sample_error > 1e-2, row


@pytest.mark.parametrize("factor", [0.99, 2.0, -1.0, 0.5])
@pytest.mark.parametrize("name", RULES)
def test_wrong_scale_is_caught_by_the_sum(monkeypatch, name, factor):
    rule, kind = RULES[name]
    net, batch = broken_case(kind)
    broken(monkeypatch, rule, lambda gradients: gradients * factor)
    with pytest.warns(UserWarning, match="fail verification"):
        rows = score(net, batch, ["lswag", "params"], verify=True).verification
    failed = [row for row in rows if not row.passed]
    assert failed
    for row in failed:
        assert row.sum_error == pytest.approx(abs(1 - factor), rel=1e-2), row
        assert row.sample_error == pytest.approx(abs(1 - factor), rel=1e-2), row


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda g: torch.cat([g[:-1], g[-1:] * 0]), id="last-sample-dropped"),
        pytest.param(lambda g: g.mean(0, keepdim=True).expand_as(g), id="mean-for-everyone"),
        pytest.param(lambda g: g.flip(1), id="rows-flipped"),
        pytest.param(lambda g: g + 1e-2 * g.abs().max(), id="shifted"),
        pytest.param(lambda g: g * float("nan"), id="nan"),
    ],
)
def test_other_mistakes_are_caught(monkeypatch, change):
    net, batch = case("vit")
    broken(monkeypatch, LinearGradient, change)
    rows = verify_gradients(net, batch, resolve_objective(net))
    wrong = [row for row in rows if row.layer != "patch_embed.proj"]
    assert wrong and not any(row.passed for row in wrong)


def test_broken_rule_for_computed_weights(monkeypatch):
    torch.manual_seed(1)
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, CLASSES))
    batch = Batch(torch.randn(5, 6), torch.arange(5) % CLASSES)
    assert all(row.passed for row in score(net, batch, verify=True).verification)
    broken(monkeypatch, DerivedGradient, lambda gradients: gradients.roll(1, 0))
    rows = verify_gradients(net, batch, resolve_objective(net))
    assert [row.passed for row in rows] == [False, True]


# ---------------------------------------------------------------- vacuous rows


def test_vacuous_rows_are_flagged():
    net, batch = case("cnn")
    nn.init.zeros_(net[-1].weight)
    with pytest.warns(UserWarning, match="exactly zero"):
        rows = score(net, batch, verify=True).verification
    assert [row.vacuous for row in rows] == [True, True, False]
    assert all(row.passed for row in rows)


def test_a_vacuous_row_does_not_hide_a_rule_that_makes_gradients_up(monkeypatch):
    net, batch = case("cnn")
    nn.init.zeros_(net[-1].weight)
    broken(monkeypatch, GroupedConvGradient, lambda gradients: gradients + 1)
    rows = verify_gradients(net, batch, resolve_objective(net))
    assert [row.passed for row in rows] == [False, False, True]


def test_layer_that_the_loss_does_not_reach():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aside = nn.Linear(6, CLASSES), nn.Linear(6, 2)

        def forward(self, x):
            return self.main(x.relu()), self.aside(x)

    net, batch = Beside(), Batch(torch.randn(5, 6), torch.arange(5) % CLASSES)
    rows = verify_gradients(net, batch, resolve_objective(net))
    assert [(row.layer, row.passed) for row in rows] == [("main", True)]


def test_coupled_samples_have_no_gradient_alone():
    net, batch = case("cnn")
    rows = verify_gradients(net, batch, resolve_objective(net), mode="score")
    assert all(row.passed and row.sample_error is None for row in rows)


class Around(nn.Module):
    """A network and something done to its input."""

    def __init__(self, before, net):
        super().__init__()
        self.before, self.net = before, net

    def forward(self, x):
        return self.net(self.before(x))


def fixed(x):
    assert len(x) == 5, "made for batches of five"
    return x


@pytest.mark.parametrize("kind", ["statistics", "draws", "fixed"])
def test_no_single_sample_where_there_is_none_to_compare_with(kind):
    net, batch = case("cnn")
    if kind == "statistics":  # no running statistics: coupled in evaluation mode, too
        net[1] = nn.BatchNorm2d(net[1].num_features, track_running_stats=False)
    else:
        net = Around((lambda x: F.dropout(x, 0.5, True)) if kind == "draws" else fixed, net)
    rows = score(net, batch, verify=True).verification
    assert rows and all(row.passed and row.sample_error is None for row in rows)


def test_network_without_a_layer_has_nothing_to_verify():
    net, batch = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()), images(8)
    assert score(net, batch, "swap", verify=True).verification == []


@pytest.mark.parametrize("kind", NETS)
def test_rounding_in_half_precision_passes(kind):
    net, batch = case(kind)
    with torch.autocast("cpu", torch.bfloat16):
        rows = score(net, batch, verify=True).verification
    assert rows and all(row.passed for row in rows), rows


def test_mistakes_are_caught_in_half_precision_too(monkeypatch):
    net, batch = case("vit")
    broken(monkeypatch, LinearGradient, lambda gradients: gradients.roll(1, 0))
    with torch.autocast("cpu", torch.bfloat16):
        rows = verify_gradients(net, batch, resolve_objective(net))
    assert not any(row.passed for row in rows if row.layer != "patch_embed.proj")


def test_the_check_of_single_samples_can_be_left_out():
    net, batch = case("cnn")
    rows = verify_gradients(net, batch, resolve_objective(net), single=False)
    assert all(row.passed and row.sample_error is None for row in rows)


@pytest.mark.parametrize(
    ("errors", "passed"),
    [((0.0, None), True), ((0.0, 0.0), True), ((2e-3, 0.0), False), ((0.0, 2e-3), False), ((9e-4, 9e-4), True)],
)
def test_passing(errors, passed):
    assert VerificationRow("fc", *errors, vacuous=False).passed is passed


def test_nan_does_not_pass():
    assert not VerificationRow("fc", float("nan"), None, False).passed
    assert not VerificationRow("fc", 0.0, float("nan"), False).passed


@pytest.mark.parametrize("kind", NETS)
def test_nothing_is_changed(kind):
    net, batch = case(kind)
    net.train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    score(net, batch, verify=True)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert all(p.grad is None for p in net.parameters())
