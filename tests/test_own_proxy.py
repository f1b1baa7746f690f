"""A proxy of one's own from one decorated function."""

import pickle

import pytest
from torch import nn

import lswag_hooks as lh
from lswag_hooks.proxies import Missing, registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def mean_size(seen):
    """Mean absolute gradient, over layers.

    More about it.
    """
    return sum(layer.mean_gradient for layer in seen.profile.weights) / len(seen.profile.weights)


@lh.register_proxy(name="rounded", needs={"moments"}, higher_is_better=False, reference="nobody, 2026")
def rounded_size(seen):
    return Missing("too small") if seen.parameters < 1000 else float(round(mean_size(seen)))


registry._REGISTRY.pop("rounded")


def net(width=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.fixture
def batch():
    return lh.Batch.builtin("digits", size=(1, 8, 8), samples=16)


def test_a_bare_decorator_makes_a_proxy_that_is_scored_and_ranked(batch):
    made = lh.register_proxy(mean_size)
    assert made.summary == "Mean absolute gradient, over layers." and made.needs == {"moments"}
    assert "mean_size" in lh.list_proxies()
    model = net()
    result = lh.score(model, batch, ["mean_size", "lswag", made(label="again")])
    by_hand = [layer.mean_gradient for layer in result.profile.weights]
    assert result["mean_size"] == result["again"] == pytest.approx(sum(by_hand) / 2)
    assert result["lswag"] == lh.score(model, batch)["lswag"]
    ranking = lh.rank({"narrow": lambda: net(8), "wide": net}, batch, "mean_size", progress=False)
    assert sorted(ranking.top(2)) == ["narrow", "wide"]


def test_options_direction_and_a_reason(batch):
    lh.register_proxy(rounded_size)  # a class by now: registered again as it is
    assert rounded_size.reference == "nobody, 2026" and not rounded_size.higher_is_better
    assert lh.score(net(), batch, ["rounded", "params"])["rounded"] == 0.0
    few = lh.score(net(4), batch, ["rounded", "params"])
    assert few.reasons["rounded"] == "too small"


def test_it_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(rounded_size(label="x"))) == rounded_size(label="x")


def test_what_nothing_provides_is_refused():
    with pytest.raises(lh.InputError, match="needs \\['luck'\\], which nothing provides"):
        lh.register_proxy(needs="luck")(mean_size)
    with pytest.raises(lh.InputError, match="a function or a class"):
        lh.register_proxy(3)
    assert "mean_size" not in lh.list_proxies()
