"""`GradientHooks` and `ActivationHooks`: the parts by themselves, against a loop over single samples."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import lswag_hooks.hooks
from lswag_hooks import InputError
from lswag_hooks.hooks import ActivationHooks, GradientHooks, ProbeSession, register_activation

CLASSES = 3


def targets_of(samples):
    return torch.arange(samples) % CLASSES


def loop(net, inputs, targets, names):
    """Gradients of the samples one by one."""
    rows = {name: [] for name in names}
    for index in range(len(targets)):
        parameters = [net.get_parameter(name) for name in names]
        kept = [parameter.requires_grad for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss = F.cross_entropy(net(inputs[index : index + 1]), targets[index : index + 1])
        for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
            rows[name].append(gradient)
        for parameter, flag in zip(parameters, kept, strict=True):
            parameter.requires_grad_(flag)
    return {name: torch.stack(gradients) for name, gradients in rows.items()}


def collect(net, inputs, targets, **options):
    with GradientHooks(net) as hooks:
        loss = F.cross_entropy(net(inputs), targets, **options)
        found = dict(hooks.per_sample(loss, len(targets), **options))
    return found, hooks


def matrices(net):
    """Weights of layers: name of the layer -> name of the parameter."""
    return {
        name.removesuffix(".weight"): name
        for name, parameter in net.named_parameters()
        if parameter.dim() > 1 and name.endswith("weight")
    }


def check(net, inputs, tolerance=1e-9, **options):
    targets = targets_of(len(inputs))
    found, hooks = collect(net, inputs, targets, **options)
    names = matrices(net)
    wanted = loop(net, inputs, targets, list(names.values()))
    assert hooks.uncovered == {}
    assert set(found) == set(names)
    for layer, name in names.items():
        assert found[layer].shape == wanted[name].shape and not found[layer].requires_grad
        scale = wanted[name].abs().max()
        assert torch.allclose(found[layer], wanted[name], rtol=0, atol=float(scale) * tolerance), layer
    return found


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(54, CLASSES),
    )


class Attentive(nn.Module):
    """Attention over interleaved rows, a layer that runs twice, and an activation in functional form."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.twice, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(F.relu(self.twice(F.gelu(self.twice(x)))).mean(1))


def swin():
    return timm.models.SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=CLASSES
    )


def picture(net):
    """All of a model's state that hooks could touch."""
    return (
        {name: (value.data_ptr(), value.numpy().tobytes()) for name, value in net.state_dict().items()},
        {name: (parameter.requires_grad, parameter.grad) for name, parameter in net.named_parameters()},
        {name: module.training for name, module in net.named_modules()},
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()],
        torch._C._len_torch_function_stack(),
        torch.get_rng_state().tolist(),
    )


# ---------------------------------------------------------------- gradients


def test_public_names():
    assert {"ActivationHooks", "GradientHooks", "ProbeSession", "register_activation"} == set(lswag_hooks.hooks.__all__)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 8])
def test_gradients_of_a_convolutional_network(samples):
    found = check(cnn().double().eval(), torch.randn(samples, 3, 8, 8).double())
    assert list(found) == ["6", "3", "0"], "last layer first"


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_of_the_loss(reduction):
    check(cnn().double().eval(), torch.randn(5, 3, 8, 8).double(), reduction=reduction)


@pytest.mark.parametrize("length", [4, 5, 6])
@pytest.mark.parametrize("samples", [3, 5])
def test_gradients_of_an_attentive_network(samples, length):
    check(Attentive().double(), torch.randn(samples, length, 5).double())


def test_gradients_of_a_windowed_network():
    check(swin().double().eval(), torch.randn(3, 3, 32, 32).double(), 1e-8)


def test_gradients_of_a_windowed_network_twice_in_one_context():
    """The experiment that tells windows from samples must not change what a second call sees."""
    net, inputs, targets = swin().double().eval(), torch.randn(3, 3, 32, 32).double(), targets_of(3)
    with GradientHooks(net) as hooks:
        loss = F.cross_entropy(net(inputs), targets)
        first = dict(hooks.per_sample(loss, 3))
        assert hooks.uncovered == {}
        second = dict(hooks.per_sample(loss, 3))
        assert hooks.uncovered == {}
    assert first.keys() == second.keys()
    for layer in first:
        assert torch.equal(first[layer], second[layer])


def test_several_losses_in_one_context():
    net, inputs, targets = cnn().double().eval(), torch.randn(5, 3, 8, 8).double(), targets_of(5)
    with GradientHooks(net) as hooks:
        for part in (inputs, inputs.flip(0)):
            found = dict(hooks.per_sample(F.cross_entropy(net(part), targets), 5))
            wanted = loop(net, part, targets, list(matrices(net).values()))
            for layer, name in matrices(net).items():
                assert torch.allclose(found[layer], wanted[name], rtol=1e-9)


def test_your_own_backward_still_works():
    net, inputs, targets = cnn().double().eval(), torch.randn(5, 3, 8, 8).double(), targets_of(5)
    with GradientHooks(net) as hooks:
        loss = F.cross_entropy(net(inputs), targets)
        found = dict(hooks.per_sample(loss, 5))
        assert all(parameter.grad is None for parameter in net.parameters())
        loss.backward()
    for layer, name in matrices(net).items():
        assert torch.allclose(found[layer].mean(0), net.get_parameter(name).grad, rtol=1e-9)
    assert inputs.grad is None and not inputs.requires_grad


def test_keyword_arguments_and_dictionaries():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, CLASSES)

        def forward(self, pair, *, scale):
            return {"logits": self.head(torch.relu(self.a(pair["x"]) + self.b(pair["y"])) * scale)}

    net = Two().double()
    x, y, scale = torch.randn(4, 4).double(), torch.randn(4, 4).double(), torch.rand(4, 1).double()
    with GradientHooks(net) as hooks:
        loss = F.cross_entropy(net({"x": x, "y": y}, scale=scale)["logits"], targets_of(4))
        found = dict(hooks.per_sample(loss, 4))
    assert set(found) == {"a", "b", "head"} and hooks.uncovered == {}
    for index in range(4):
        part = slice(index, index + 1)
        alone = net({"x": x[part], "y": y[part]}, scale=scale[part])["logits"]
        gradient = torch.autograd.grad(F.cross_entropy(alone, targets_of(4)[part]), net.b.weight)[0]
        assert torch.allclose(found["b"][index], gradient, rtol=1e-9)


def test_frozen_parameters_are_seen_and_stay_frozen():
    net = cnn().double().eval()
    for parameter in net[:4].parameters():
        parameter.requires_grad_(False)
    before = [parameter.requires_grad for parameter in net.parameters()]
    check(net, torch.randn(5, 3, 8, 8).double())
    assert [parameter.requires_grad for parameter in net.parameters()] == before


@pytest.mark.parametrize("make", [cnn, Attentive, swin])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(make, fails):
    net = make()
    net.train()
    inputs = {cnn: (5, 3, 8, 8), Attentive: (5, 4, 5), swin: (3, 3, 32, 32)}[make]
    inputs = torch.randn(inputs)
    for module in net.modules():  # a forward pass in training mode is the caller's own, and moves the statistics
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    next(net.parameters()).requires_grad_(False)
    list(net.parameters())[-1].grad = torch.ones(CLASSES)
    state = torch.get_rng_state()
    net(inputs)
    after = torch.get_rng_state()  # what the caller's own forward pass draws
    torch.set_rng_state(state)
    before = picture(net)
    try:
        with GradientHooks(net) as hooks:
            loss = F.cross_entropy(net(inputs), targets_of(len(inputs)))
            for _ in hooks.per_sample(loss, len(inputs)):
                if fails:
                    raise LookupError
    except LookupError:
        assert fails
    assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(state)
    assert picture(net) == before


def test_in_batch_mode_gradients_are_shares_of_the_coupled_one():
    net, inputs, targets = cnn().double().train(), torch.randn(5, 3, 8, 8).double(), targets_of(5)
    found, _ = collect(net, inputs, targets)
    net.load_state_dict(net.state_dict())
    F.cross_entropy(net(inputs), targets).backward()
    for layer, name in matrices(net).items():
        assert torch.allclose(found[layer].mean(0), net.get_parameter(name).grad, rtol=1e-7, atol=1e-12)


def test_the_mode_is_the_caller_s():
    net, inputs, targets = cnn().double().train(), torch.randn(5, 3, 8, 8).double(), targets_of(5)
    collect(net, inputs, targets)
    assert int(net[1].num_batches_tracked) == 1 and net.training


def test_layers_without_gradients_are_named():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aside, self.idle = nn.Linear(5, CLASSES), nn.Linear(5, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.main(x), self.aside(x)

    net = Beside()
    with GradientHooks(net) as hooks:
        found = dict(hooks.per_sample(F.cross_entropy(net(torch.randn(4, 5))[0], targets_of(4)), 4))
    assert set(found) == {"main"} and set(hooks.uncovered) == {"aside.weight", "idle.weight"}
    assert all("does not reach" in reason for reason in hooks.uncovered.values())


def test_before_the_model_ran():
    net = cnn()
    with GradientHooks(net) as hooks, pytest.raises(InputError, match="run the model inside"):
        list(hooks.per_sample(torch.zeros(()), 4))
    loss = F.cross_entropy(net(torch.randn(4, 3, 8, 8)), targets_of(4))
    with pytest.raises(InputError, match="run the model inside"):
        list(hooks.per_sample(loss, 4))


@pytest.mark.parametrize("reduction", ["none", "average", None, "Mean"])
def test_unknown_reduction(reduction):
    net = cnn()
    with GradientHooks(net) as hooks:
        loss = F.cross_entropy(net(torch.randn(4, 3, 8, 8)), targets_of(4))
        with pytest.raises(InputError, match="reduction="):
            list(hooks.per_sample(loss, 4, reduction))


def test_loss_that_is_no_scalar():
    net = cnn()
    with GradientHooks(net) as hooks:
        losses = F.cross_entropy(net(torch.randn(4, 3, 8, 8)), targets_of(4), reduction="none")
        with pytest.raises(InputError, match="one number"):
            list(hooks.per_sample(losses, 4))


def test_wrong_number_of_samples_gives_no_wrong_gradients():
    net, inputs = cnn().eval(), torch.randn(4, 3, 8, 8)
    for samples in (2, 3, 8):
        with GradientHooks(net) as hooks:
            found = dict(hooks.per_sample(F.cross_entropy(net(inputs), targets_of(4)), samples))
        assert found == {} and set(hooks.uncovered) == set(matrices(net).values()), samples


def test_computed_weights_by_their_parameters():
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, CLASSES)
    ).double()
    inputs, targets = torch.randn(5, 5).double(), targets_of(5)
    found, hooks = collect(net, inputs, targets)
    assert hooks.uncovered == {} and len(found) == 2
    name = "0.parametrizations.weight.original1"
    wanted = loop(net, inputs, targets, [name])[name]
    (gradients,) = (value for layer, value in found.items() if layer != "2")
    assert torch.allclose(gradients, wanted, rtol=1e-9)


def test_used_again():
    net, inputs, targets = cnn().eval(), torch.randn(4, 3, 8, 8), targets_of(4)
    hooks = GradientHooks(net)
    results = []
    for _ in range(2):
        with hooks:
            results.append(dict(hooks.per_sample(F.cross_entropy(net(inputs), targets), 4)))
    assert all(torch.equal(results[0][layer], results[1][layer]) for layer in results[0])


# ---------------------------------------------------------------- codes


def codes(net, inputs, samples=None):
    with torch.no_grad(), ActivationHooks(net, samples) as hooks:
        net(inputs)
    return dict(hooks), hooks


def test_codes_of_modules():
    net, inputs = cnn().eval(), torch.randn(5, 3, 8, 8)
    found, hooks = codes(net, inputs)
    with torch.no_grad():
        first = net[1](net[0](inputs)).relu()
        second = net[4](net[3](first))
    assert list(found) == ["2", "4"] and hooks.skipped == []
    for code, output in zip(found.values(), (first, second), strict=True):
        assert code.dtype == torch.bool and torch.equal(code, output.flatten(1) > 0)


def test_codes_of_functions_are_numbered():
    net, inputs = Attentive(), torch.randn(5, 4, 5)
    found, _ = codes(net, inputs)
    assert list(found) == ["gelu", "#1"]
    with torch.no_grad():
        x = net.embed(inputs)
        x = net.twice(F.gelu(net.twice(x + net.attention(x, x, x)[0])))
    assert torch.equal(found["#1"], x.flatten(1) > 0)


def test_layer_that_runs_twice():
    act = nn.ReLU()
    net = nn.Sequential(nn.Linear(4, 3), act, nn.Linear(3, 2), act)
    found, _ = codes(net, torch.randn(6, 4))
    assert {name: tuple(code.shape) for name, code in found.items()} == {"1": (6, 3), "1#1": (6, 2)}


def test_codes_are_kept_when_the_output_is_overwritten():
    class Overwriting(nn.Module):
        def forward(self, x):
            x = torch.relu(x)
            x.zero_()
            return x

    inputs = torch.randn(6, 4)
    found, _ = codes(Overwriting(), inputs)
    assert torch.equal(found["relu"], inputs > 0)


def test_gates_clamps_and_other_shapes_are_skipped_and_named():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.act = nn.Sigmoid(), nn.ReLU()

        def forward(self, x):
            table = self.act(torch.randn(9, 4))
            return self.act(x * self.gate(x)).clamp(max=3) + table.mean(0)

    found, hooks = codes(Mixed(), torch.randn(6, 4), samples=6)
    assert {name: tuple(code.shape) for name, code in found.items()} == {"act#1": (6, 4)}
    assert len(hooks.skipped) == 3
    assert "act: shape (9, 4)" in hooks.skipped[0]
    assert any("gate" in text and "igmoid" in text for text in hooks.skipped)
    assert any("clamp" in text for text in hooks.skipped)


@pytest.mark.parametrize("samples", [None, 6])
def test_vectors_and_single_numbers(samples):
    class Small(nn.Module):
        def forward(self, x):
            return torch.relu(x[:, 0]) + torch.relu(x.mean())

    inputs = torch.randn(6, 4)
    found, hooks = codes(Small(), inputs, samples)
    assert list(found) == ["relu"] and torch.equal(found["relu"], inputs[:, :1] > 0)
    assert len(hooks.skipped) == 1 and "shape ()" in hooks.skipped[0]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_skipped_and_named():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with ActivationHooks(net) as hooks:
        net(torch.nested.as_nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged))
    assert not hooks.codes and hooks.skipped[0].startswith("1: shape")


def test_windows_are_skipped_if_the_batch_size_is_given():
    net = swin().eval()
    found, _ = codes(net, torch.randn(2, 3, 32, 32), samples=2)
    assert found and all(len(code) == 2 for code in found.values())


def test_activation_of_ones_own(monkeypatch):
    from lswag_hooks.hooks import activations

    monkeypatch.setattr(activations, "_CLASSES", dict(activations._CLASSES))

    class Own(nn.Module):
        def forward(self, x):
            return x.sin()

    net, inputs = nn.Sequential(nn.Linear(4, 3), Own()), torch.randn(6, 4)
    assert codes(net, inputs)[0] == {}
    register_activation(Own)
    found, _ = codes(net, inputs)
    assert torch.equal(found["1"], net(inputs) > 0)


@pytest.mark.parametrize("fails", [False, True])
def test_activation_hooks_leave_nothing(fails):
    net, inputs = cnn().eval(), torch.randn(5, 3, 8, 8)
    before = picture(net)
    try:
        with ActivationHooks(net):
            net(inputs)
            if fails:
                raise LookupError
    except LookupError:
        pass
    assert picture(net) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_used_again_with_another_batch():
    net = cnn().eval()
    hooks = ActivationHooks(net)
    for samples in (5, 3):
        with torch.no_grad(), hooks:
            net(torch.randn(samples, 3, 8, 8))
        assert {name: len(code) for name, code in hooks} == {"2": samples, "4": samples}


def test_outside_the_context_nothing_is_recorded():
    net = cnn().eval()
    hooks = ActivationHooks(net)
    net(torch.randn(5, 3, 8, 8))
    assert dict(hooks) == {}


def test_both_together_and_in_a_session():
    net, inputs, targets = cnn().double(), torch.randn(5, 3, 8, 8).double(), targets_of(5)
    wanted = loop(net.eval(), inputs, targets, list(matrices(net).values()))
    net.train()
    with ProbeSession(net, "eval"), ActivationHooks(net) as activations, GradientHooks(net) as gradients:
        found = dict(gradients.per_sample(F.cross_entropy(net(inputs), targets), 5))
    assert net.training and int(net[1].num_batches_tracked) == 0
    assert len(activations.codes) == 2
    for layer, name in matrices(net).items():
        assert torch.allclose(found[layer], wanted[name], rtol=1e-9)
