"""What a proxy says that it costs, against the passes that really run."""

import re

import pytest
from torch import nn

import lswag_hooks as lh
from lswag_hooks.proxies import NEEDS, proxy_class
from lswag_hooks.proxies.base import COSTS

SAMPLES = 16


class Seen:
    """Passes that ran; not kept in the model, whose attributes a score puts back."""

    def __init__(self):
        self.forwards: list[int] = []  # number of samples of each
        self.backwards = {"outputs": 0, "features": 0}  # number of those through each

    def watch(self, place, tensor):
        def count(gradient):
            self.backwards[place] += 1

        if tensor.requires_grad:
            tensor.register_hook(count)
        return tensor


class Counting(nn.Module):
    """Tells of its passes."""

    def __init__(self, seen):
        super().__init__()
        object.__setattr__(self, "tell", lambda: seen)
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.attention = nn.Linear(4, 4)  # square, for tf_tas
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        self.tell().forwards.append(len(x))
        features = self.tell().watch("features", self.body(x))
        return self.tell().watch("outputs", self.head(self.attention(features.mean((2, 3)))))


def stated(cost, letters):
    """Number of passes that a cost says, of those with these letters."""
    number = 0
    for term in re.sub(r"N \((\w) \+ (\w)\)", r"N \1 + N \2", cost.split(",")[0]).split(" + "):
        *times, letter = term.split()
        if letter in letters:
            number += {"N": SAMPLES}.get(times[0], 0) or int(times[0]) if times else 1
    return number


@pytest.fixture(scope="module")
def batch():
    return lh.Batch.builtin("digits", size=(3, 8, 8), samples=SAMPLES)


@pytest.mark.parametrize("name", [name for name in lh.list_proxies() if name != "reg_swap"])
def test_a_proxy_alone_takes_the_passes_that_it_says(batch, name):
    seen, cost = Seen(), proxy_class(name).cost()
    assert lh.score(Counting(seen), batch, name).reasons == {}
    parts = proxy_class(name)().batches if "in parts" in cost else 1
    assert len(seen.forwards) == stated(cost, "Ff") * parts
    place = "features" if "in segments" in cost else "outputs"  # its backward pass begins at the last features
    assert seen.backwards[place] == stated(cost, "Bb") * parts
    single = [count for count in seen.forwards if count == 1]
    assert len(single) == stated(cost, "f")


def test_proxies_together_share_their_passes(batch):
    seen = Seen()
    lh.score(Counting(seen), batch, ["lswag", "zico", "snip", "swap", "nwot", "jacov", "epe_nas", "synflow", "tf_tas"])
    assert sorted(seen.forwards) == [1, SAMPLES] and seen.backwards["outputs"] == 3  # loss, input gradients, flow


def test_every_need_has_a_cost():
    assert set(COSTS) == set(NEEDS)
