import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.feature_selection import SelectKBest as Sklearns
from torch import nn

import lswag_hooks as lh
from lswag_hooks.integrations import OwnLoss, SelectKBest

WIDTHS = (4, 64, 8, 32, 16)


def net(width):
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.fixture(scope="module")
def batch():
    return lh.Batch.builtin("digits", size=(1, 8, 8), samples=16)


def candidates():
    return {f"width {width}": net(width) for width in WIDTHS}


def test_what_is_kept_is_what_sklearn_keeps_with_the_same_scores(batch):
    ours = SelectKBest(k=3, progress=False).fit(candidates(), batch)
    alone = [lh.score(lh.build(net(width), num_classes=10), batch)["lswag"] for width in WIDTHS]
    assert ours.scores_.tolist() == alone
    theirs = Sklearns(lambda X, y: np.array(alone), k=3).fit(np.zeros((2, 5)), np.zeros(2))
    assert ours.get_support().tolist() == theirs.get_support().tolist()
    assert ours.get_support(indices=True).tolist() == theirs.get_support(indices=True).tolist()
    names = np.array([list(candidates())])
    assert list(ours.transform(candidates())) == names[:, ours.get_support()][0].tolist()


def test_a_list_stays_a_list_and_what_fails_is_never_kept(batch):
    listed = [net(4), "timm/nosuchnet", net(16)]
    selector = SelectKBest(k="all", progress=False)
    assert selector.fit_transform(listed, batch) == [listed[0], listed[2]]
    assert np.isnan(selector.scores_).tolist() == [False, True, False]
    assert "nosuchnet" in selector.ranking_.rows[-1].reason


def test_sklearn_can_clone_it():
    selector = SelectKBest(k=2, proxies="zico", init="wake", progress=False)
    again = clone(selector)
    assert again is not selector and again.get_params() == selector.get_params()
    assert again.set_params(k=3, init=None).get_params()["init"] is None and again.k == 3
    assert selector.options["init"] == "wake"


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "most"])
def test_a_bad_k_is_refused_before_any_work(k):
    with pytest.raises(lh.InputError, match="k="):
        SelectKBest(k=k).fit({"a": None}, None)


def test_use_before_fit_and_on_others_is_refused(batch):
    selector = SelectKBest(k=1, progress=False)
    with pytest.raises(lh.InputError, match="call fit"):
        selector.get_support()
    with pytest.raises(lh.InputError, match="1 candidates, and 2 were scored"):
        selector.fit(dict(list(candidates().items())[:2]), batch).transform([1])


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x, labels=None):
        logits = self.net(x)
        loss = None if labels is None else 2 * nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def test_own_loss_is_the_models_and_not_cross_entropy():
    torch.manual_seed(0)
    model, x, labels = Own(), torch.randn(12, 6), torch.arange(12) % 3
    given = lh.Batch({"x": x}, labels)
    plain = lh.score(model, given, "grad_norm")["grad_norm"]
    assert lh.score(model, given, "grad_norm", loss=OwnLoss())["grad_norm"] == pytest.approx(2 * plain, rel=1e-5)
    inside = lh.Batch({"x": x, "labels": labels}, None)
    assert lh.score(model, inside, "grad_norm", loss=OwnLoss())["grad_norm"] == pytest.approx(2 * plain, rel=1e-5)


def test_own_loss_says_what_is_missing():
    x = torch.randn(4, 6)
    with pytest.raises(lh.InputError, match="inputs are a Tensor"):
        lh.score(Own(), lh.Batch(x, torch.arange(4) % 3), loss=OwnLoss())
    with pytest.raises(lh.InputError, match="Own returned no 'loss'"):
        lh.score(Own(), lh.Batch({"x": x}, None), loss=OwnLoss())


def test_own_loss_has_a_name_in_a_store(tmp_path):
    given = lh.Batch({"x": torch.randn(8, 6)}, torch.arange(8) % 3)
    options = {"store": tmp_path / "scores.db", "progress": False}
    first = lh.rank({"own": Own}, given, loss=OwnLoss(), **options)
    again = lh.rank({"own": Own}, given, loss=OwnLoss(), **options)
    other = lh.rank({"own": Own}, given, loss=OwnLoss(reduction="sum"), **options)
    values = [ranking.rows[0].scores["lswag"] for ranking in (first, again, other)]
    assert values[0] == values[1] != values[2]
