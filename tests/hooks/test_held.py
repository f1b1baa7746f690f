"""What autograd holds, counted while it holds it."""

import gc
import weakref

import pytest
import torch
from torch import nn

from lswag_hooks.hooks.calls import OverBudget
from lswag_hooks.hooks.held import Held


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Sigmoid())


INPUTS = 4 * 5  # of four samples, in single precision
TANH, SIGMOID = 4 * 7, 4 * 3
ALL = 4 * (INPUTS + TANH + SIGMOID)  # bytes


def test_it_goes_up_and_down_with_what_is_held():
    model, x = net(), torch.randn(4, 5)
    with Held(model) as held:
        first = model(x)
        assert held.bytes == ALL  # Tanh's output is the second layer's input, held once
        second = model(x)
        assert held.bytes == 4 * (INPUTS + 2 * (TANH + SIGMOID))
        first.sum().backward()
        assert held.bytes == ALL
        del second
        assert held.bytes == 0


def test_nothing_is_held_without_a_gradient_and_the_models_own_does_not_count():
    model = net()
    with Held(model) as held:
        with torch.no_grad():
            model(torch.randn(4, 5))
        outputs = model[2].weight * model[2].weight.T.sum()
        assert held.bytes == 4  # the sum
        del outputs


def test_a_second_derivative_is_the_same_and_counts():
    model, x = net(), torch.randn(4, 5)
    weight = model[0].weight

    def second(held):
        (gradient,) = torch.autograd.grad(model(x).sum(), weight, create_graph=True)
        return held.bytes, torch.autograd.grad(gradient.square().sum(), weight)[0]

    _, wanted = second(Held(model))
    with Held(model) as held:
        most, found = second(held)
    assert torch.equal(found, wanted)
    assert most > ALL and held.bytes == 0


@pytest.mark.parametrize(
    "budget, passes", [(4 * (INPUTS + TANH + SIGMOID), True), (4 * (INPUTS + TANH + SIGMOID) - 1, False)]
)
def test_it_breaks_off_at_the_budget(budget, passes):
    model = net()
    with Held(model, budget) as held:
        if passes:
            model(torch.randn(4, 5)).sum().backward()
        else:
            with pytest.raises(OverBudget):
                model(torch.randn(4, 5))
    assert held.bytes == 0


def test_it_breaks_off_in_a_backward_pass_too():
    model, x = net(), torch.randn(4, 5)
    with Held(model, ALL), pytest.raises(OverBudget):
        torch.autograd.grad(model(x).sum(), model[0].weight, create_graph=True)


def test_outputs_are_freed_without_the_garbage_collector():
    model = net()
    gc.disable()
    try:
        with Held(model):
            outputs = model(torch.randn(4, 5))
        gone = weakref.ref(outputs)
        del outputs
        assert gone() is None
    finally:
        gc.enable()


def test_a_change_in_place_is_noticed():
    x = torch.randn(4, requires_grad=True)
    with Held(nn.Identity()):
        outputs = x.exp()
        outputs.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        outputs.sum().backward()


def test_sparse_tensors_do_not_count():
    matrix = torch.eye(3).to_sparse().requires_grad_()
    with Held(nn.Identity()) as held:
        torch.sparse.mm(matrix, torch.ones(3, 2)).sum().backward()
    assert torch.equal(matrix.grad.to_dense(), 2 * torch.eye(3)) and held.bytes == 0
