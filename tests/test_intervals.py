import numpy as np
import pytest
from torch import nn

import lswag_hooks as lh
from lswag_hooks.cli import main
from lswag_hooks.errors import InputError
from lswag_hooks.intervals import GradientCurves, curves_of, spike, stored_intervals, tenths_of
from lswag_hooks.profiling import gradient_curves


@pytest.fixture(scope="module")
def batch():
    return lh.Batch.builtin("digits", size=(3, 8, 8), samples=8)


def deep(width):
    def build():
        layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        for _ in range(10):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * width, 10))

    return build


@pytest.mark.parametrize(
    ("curve", "interval"),
    [
        ([0, 0, 0, 10, 0, 0, 0, 0, 0, 0], (3, 3)),
        ([0, 0, 4, 10, 6, 0, 0, 0, 0, 0], (3, 4)),  # at half of the height of 10
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], (5, 9)),  # rising to the end
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], (0, 4)),
        ([0, 5, 0, 0, 0, 0, 9, 8, 0, 0], (6, 7)),  # the higher of two
        ([1e-6, 1e-6, 1e-6, 5e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6], (3, 3)),
        ([2.0] * 10, None),
    ],
)
def test_the_spike_of_curves_that_can_be_checked_by_eye(curve, interval):
    assert spike(curve) == interval


def test_curves_that_are_none_are_refused():
    with pytest.raises(InputError, match="10 finite numbers"):
        spike([1, 2, 3])
    with pytest.raises(InputError, match="10 finite numbers"):
        spike([1.0, np.nan, *[1.0] * 8])


def test_tenths_are_means_over_the_layers_of_a_profile(batch):
    result = lh.score(lh.build(deep(4)), batch, seed=0)
    rows = result.profile.weights
    expected = [
        np.mean([row.mean_deviation for i, row in enumerate(rows) if 10 * i // len(rows) == tenth])
        for tenth in range(10)
    ]
    np.testing.assert_allclose(tenths_of(result.profile), expected)


def test_networks_without_a_layer_in_a_tenth_leave_no_gap():
    curves = np.full((2, 10), np.nan)
    curves[:, [0, 5, 9]] = [[1, 3, 1], [1, 5, 1]]
    found = GradientCurves(curves, np.array([3, 3]))
    assert found.mean.tolist() == pytest.approx([1, 1.6, 2.2, 2.8, 3.4, 4, 3.25, 2.5, 1.75, 1])
    assert found.interval is not None and found.interval[0] == 3  # half way up, 2.5, lies between tenths 2 and 3
    with pytest.raises(InputError, match="no network has a layer"):
        GradientCurves(np.full((2, 10), np.nan), np.array([0, 0])).mean  # noqa: B018


def test_groups_of_depth_share_out_the_networks():
    depths = np.array([5, 5, 6, 10, 11, 12, 30, 31, 40])
    groups = GradientCurves(np.arange(90.0).reshape(9, 10), depths).by_depth(3)
    assert list(groups) == ["5 to 6 layers", "10 to 12 layers", "30 to 40 layers"]
    assert sum(len(group.curves) for group in groups.values()) == 9
    assert list(GradientCurves(np.ones((4, 10)), np.full(4, 7)).by_depth()) == ["7 to 7 layers"]


def test_auto_ranks_as_the_interval_it_found_does(batch):
    candidates = {str(width): deep(width) for width in (2, 4, 8)}
    proxies = [
        "lswag",
        lh.LSWAGRobust(),
        lh.LSWAG(pairing="feeding", label="fed"),
        lh.LSWAG(interval=(0, 9), label="all"),
    ]
    ranking = lh.rank(candidates, batch, proxies, seeds=2, interval="auto", progress=False)
    profiles = {f"{n} {s}": r.profile for n, found in ranking.results.items() for s, r in found.items()}
    interval = curves_of(profiles).interval
    assert interval is not None and interval != (0, 9)
    assert ranking.settings["interval"] == interval
    given = lh.rank(candidates, batch, proxies, seeds=2, interval=interval, progress=False)
    for row, other in zip(ranking.rows, given.rows, strict=True):
        assert row.name == other.name
        assert row.scores == pytest.approx(other.scores, rel=1e-9)
    assert f"tenths {interval[0]} to {interval[1]}" in str(ranking)


def test_auto_says_where_there_is_nothing_to_choose(batch):
    ranking = lh.rank({"a": deep(2)}, batch, "zico", interval="auto", progress=False)
    assert ranking.settings["interval"] is None and "interval: all layers" in str(ranking)


def test_curves_of_a_space_are_those_of_its_networks_and_resume(batch, tmp_path, monkeypatch):
    found = gradient_curves("nasbench201", batch, 4, store=tmp_path / "scores.db", progress=False)
    space = lh.get_space("nasbench201")
    net = space.build(found.names[1], 10, image_size=8, seed=0)
    np.testing.assert_allclose(found.curves[1], tenths_of(lh.score(net, batch, seed=0).profile))
    monkeypatch.setattr("lswag_hooks.measuring.measure", None)
    again = gradient_curves("nasbench201", batch, 4, store=tmp_path / "scores.db", progress=False)
    np.testing.assert_array_equal(found.curves, again.curves)
    assert found.to_dict() == again.to_dict()


def test_the_command_writes_tables_and_pictures(tmp_path, capsys):
    arguments = ["profile", "nasbench201", "--networks", "4", "--size", "3,8,8", "--samples", "8"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "interval" in printed and "4 networks" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"curves.csv", "summary.json", "curves.png", "by_depth.png"}


def test_stored_intervals_follow_from_their_curves():
    stored = stored_intervals()
    assert stored
    for name, one in stored.items():
        assert name in lh.list_spaces()
        assert tuple(one["interval"]) == spike(one["mean"])
        assert one["settings"]["networks"] == one["networks"] >= 30
