import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lswag_hooks.errors import InputError
from lswag_hooks.hooks import ActivationHooks, GradientHooks


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 6), nn.GELU(), nn.Linear(6, 3)
    ).double()


def samples(n=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 5, 5, generator=generator, dtype=torch.float64), torch.arange(n) % 3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_equal_those_of_single_samples(reduction):
    net, (x, y) = small(), samples()
    net[0].weight.requires_grad_(False)
    with GradientHooks(net) as hooks:
        found = dict(hooks.per_sample(F.cross_entropy(net(x), y, reduction=reduction), len(x), reduction))
    assert not net[0].weight.requires_grad and all(p.grad is None for p in net.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
    assert hooks.uncovered == {}
    net[0].weight.requires_grad_(True)
    assert set(found) == {"0", "3", "5"}
    for i in range(len(x)):
        loss = F.cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        for name, gradients in found.items():
            expected = torch.autograd.grad(loss, net[int(name)].weight, retain_graph=True)[0]
            torch.testing.assert_close(gradients[i], expected, rtol=1e-10, atol=1e-12)


class Windows(nn.Module):
    """Two windows a sample, folded into the batch dimension."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        folded = x.reshape(len(x) * 2, -1, 3)
        return self.head(self.inner(folded).relu().reshape(len(x), -1, 4).mean(1))


def test_gradients_behind_windows():
    torch.manual_seed(0)
    net = Windows().double()
    x, y = torch.randn(3, 8, 3, dtype=torch.float64), torch.tensor([0, 1, 0])
    with GradientHooks(net) as hooks:
        found = dict(hooks.per_sample(F.cross_entropy(net(x), y), 3))
    for i in range(3):
        expected = torch.autograd.grad(F.cross_entropy(net(x[i : i + 1]), y[i : i + 1]), net.inner.weight)[0]
        torch.testing.assert_close(found["inner"][i], expected, rtol=1e-10, atol=1e-12)


def test_gradients_need_a_forward_pass():
    with GradientHooks(small()) as hooks, pytest.raises(InputError, match="inside"):
        next(hooks.per_sample(torch.zeros(()), 2))


def test_codes_are_signs_of_outputs():
    net, (x, _) = small(), samples()
    with ActivationHooks(net) as hooks:
        net(x)
    hidden = net[0](x)
    assert torch.equal(hooks.codes["1"], (hidden > 0).flatten(1))
    assert torch.equal(hooks.codes["4"], net[4](net[3](hidden.relu().flatten(1))) > 0)
    assert [name for name, _ in hooks] == ["1", "4"]


def test_gates_are_listed_and_not_coded():
    with ActivationHooks(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.ReLU())) as hooks:
        hooks.model(torch.randn(2, 3))
    assert list(hooks.codes) == ["2"] and hooks.skipped == ["1 (Sigmoid)"]
