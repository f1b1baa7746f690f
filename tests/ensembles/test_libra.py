import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lswag_hooks.benchmark import Benchmark
from lswag_hooks.ensembles import Libra, LibraChecked, list_fitted, merge_ranks
from lswag_hooks.ensembles.evidence import gather
from lswag_hooks.ensembles.tables import Given
from lswag_hooks.errors import InputError

GOLDEN = json.loads((Path(__file__).parent / "golden_table.json").read_text(encoding="utf-8"))
TABLE = pd.DataFrame(GOLDEN["table"])
DATA = os.environ.get("LSWAG_DATA")


def table(size=200, seed=0):
    """Four proxies within .1 of each other, one useless, and accuracies."""
    rng = np.random.default_rng(seed)
    accuracy = rng.normal(size=size)
    spreads = {"zico": 0.7, "params": 0.7, "nwot": 0.8, "snip": 0.78, "plain": 9.0}
    scores = pd.DataFrame({name: accuracy + spread * rng.normal(size=size) for name, spread in spreads.items()})
    return scores, pd.Series(accuracy)


USUAL = TABLE.drop(columns="p5")  # p5 is p1 with one -1e8, which is no value


def chosen_by_hand(bins):
    """The paper's rule, from the golden figures alone."""
    rho, gains = dict(GOLDEN["spearman_with_acc"]), GOLDEN["bins"][bins]["IG_second_given_first"]
    del rho["p5"]
    first = max(rho, key=rho.get)
    near = [name for name in rho if name != first and rho[name] >= rho[first] - 0.1]
    second = min(near, key=lambda name: gains[f"{first}->{name}"])
    biases = GOLDEN["bias_pearson_of_ranks"]
    third = min((n for n in near if n != second), key=lambda name: abs(biases[name] - biases["acc"]))
    return first, second, third


@pytest.mark.parametrize("bins", ["sturges", "nbsz"])
def test_golden_choice_correlations_gains_and_biases(bins):
    libra = Libra(bins=bins, outliers="keep").fit(USUAL, "acc")
    assert libra.selected == chosen_by_hand(bins)
    rows = libra.seen["proxies"]
    first = libra.selected[0]
    for name, row in rows.items():
        assert row["correlation"] == pytest.approx(GOLDEN["spearman_with_acc"][name], abs=1e-12)
        assert row["bias"] == pytest.approx(GOLDEN["bias_pearson_of_ranks"][name], abs=1e-12)
        if name != first:
            gain = GOLDEN["bins"][bins]["IG_second_given_first"][f"{first}->{name}"]
            assert row["gain"] == pytest.approx(gain, abs=1e-12)
    assert libra.seen["accuracy_bias"] == pytest.approx(GOLDEN["bias_pearson_of_ranks"]["acc"], abs=1e-12)


def test_golden_biases_of_values():
    libra = Libra(bias="pearson", outliers="keep").fit(USUAL, "acc")
    for name, row in libra.seen["proxies"].items():
        assert row["bias"] == pytest.approx(GOLDEN["bias_pearson_of_values"][name], abs=1e-12)
    assert libra.seen["accuracy_bias"] == pytest.approx(GOLDEN["bias_pearson_of_values"]["acc"], abs=1e-12)


def test_a_mark_in_the_golden_table_is_not_taken_for_a_value():
    libra = Libra().fit(TABLE, "acc")
    rows = libra.seen["proxies"]
    assert libra.seen["networks"] == 59 and 'p5: 1 values stand for "no value": -1e+08' in libra.report()
    assert rows["p5"]["correlation"] == pytest.approx(rows["p1"]["correlation"])
    # a copy says nothing new, which is what the paper's rule looks for; the report says what that is worth
    assert libra.selected[:2] == ("p1", "p5") and rows["p5"]["gain"] == 0
    assert "they correlate 1.00" in libra.report() and "which it does not have" in libra.report()


def test_an_outlier_wins_by_the_published_bins_but_not_by_default():
    scores, accuracy = table()
    # a monotone transform: the same ranking, but all values but one in one bin
    scores["synflow"] = np.exp(40 * scores["nwot"])
    kept = Libra(outliers="keep").fit(scores, accuracy)
    assert kept.selected[1] == "synflow"
    assert kept.seen["proxies"]["synflow"]["gain"] < 0.1
    usual = Libra().fit(scores, accuracy)
    assert usual.selected[1] != "synflow"
    assert usual.seen["proxies"]["synflow"]["bins"] == "quantile"
    assert "synflow: outliers leave nine tenths" in usual.report() and "binned by quantiles" in usual.report()
    with pytest.raises(InputError, match=r"synflow: outliers.*Take logarithms"):
        Libra(outliers="refuse").fit(scores, accuracy)


def test_members_and_merging_are_independent_of_units():
    scores, accuracy = table()
    one = Libra(bins="quantile").fit(scores, accuracy)
    other = Libra(bins="quantile").fit(np.exp(scores) * 1e6, accuracy)
    assert one.selected == other.selected
    assert (one.score(scores) == other.score(np.exp(scores) * 1e6)).all()


def test_tolerance_and_an_empty_set():
    scores, accuracy = table()
    alone = Libra(tolerance=0.0).fit(scores, accuracy)
    assert alone.selected == ("snip",)
    assert "none within 0 of that: snip alone" in alone.report() and "tolerance of 0.2" in alone.report()
    assert (alone.score(scores) == merge_ranks(scores[["snip"]])).all()
    everything = Libra(tolerance=None).fit(scores, accuracy)
    assert all(row["within"] for row in everything.seen["proxies"].values())


def test_one_neighbour_and_no_sizes_make_two_members():
    scores, accuracy = table()
    two = Libra().fit(scores[["zico", "nwot"]], accuracy)
    assert two.selected == ("zico", "nwot") and "none is left for a third" in two.report()
    assert "no column 'params' of sizes" in two.report()
    unsized = Libra(size="weights").fit(scores, accuracy)
    assert len(unsized.selected) == 2
    assert "no column 'weights'" in unsized.report() and "no third, because without sizes" in unsized.report()
    assert "of sizes" not in Libra(size=None).fit(scores, accuracy).report()
    assert Libra(size="zico").fit(scores, accuracy).seen["proxies"]["zico"]["bias"] == pytest.approx(1)


def test_rows_and_columns_that_lack_values():
    scores, accuracy = table()
    scores["mostly_missing"] = np.where(np.arange(200) < 90, 1.0 * np.arange(200), np.nan)
    scores["constant"] = 3.0
    scores.loc[:4, "zico"] = np.nan
    scores.loc[5:7, "nwot"] = -1e8
    scores.loc[8, "snip"] = np.inf
    scores.loc[9:10, ["zico", "nwot", "snip", "params", "plain"]] = np.nan
    accuracy[11:13] = np.nan
    libra = Libra().fit(scores, accuracy)
    assert libra.seen["networks"] == 200 - 5 - 3 - 1 - 2 - 2
    said = libra.report()
    for words in (
        'nwot: 3 values stand for "no value": -1e+08',
        'snip: 1 values stand for "no value": inf',
        "2 of 200 networks without an accuracy",
        "2 of 198 networks without values of half of the proxies",
        "mostly_missing, without values for more than half",
        "9 of 196 networks without values of every proxy",
        "constant, the same for all networks",
    ):
        assert words in said
    kept = scores.drop(columns=["mostly_missing", "constant"]).iloc[13:]
    assert libra.selected == Libra().fit(kept, accuracy[13:]).selected
    rho = stats.spearmanr(kept["zico"], accuracy[13:]).statistic
    assert libra.seen["proxies"]["zico"]["correlation"] == pytest.approx(rho)


def test_a_repeated_extreme_is_a_mark_in_new_scores_too():
    scores, accuracy = table()
    scores.loc[:2, "zico"] = -99999.0
    libra = Libra().fit(scores, accuracy)
    assert "zico" in libra.selected and "-99999" in libra.report()
    assert libra.score(scores).isna().sum() == 3
    # of two candidates none is taken for a mark only because they are far apart
    assert libra.score(pd.DataFrame({name: [0.0, 0.0, 1e6] for name in libra.selected})).notna().all()


def test_lower_is_better_declared_or_fitted():
    scores, accuracy = table()
    turned = scores.assign(zico=-scores["zico"], plain=-scores["plain"])
    declared = Libra(higher_is_better={"zico": False}).fit(turned, accuracy)
    plain = Libra().fit(scores, accuracy)
    assert declared.selected == plain.selected and "zico" in plain.selected
    assert (declared.score(turned) == plain.score(scores)).all()
    fitted = Libra(higher_is_better="fit").fit(turned, accuracy)
    assert fitted.selected == plain.selected and "turned round" in fitted.report() and "-zico" in fitted.report()
    assert (fitted.score(turned) == plain.score(scores)).all()
    assert Libra().fit(turned, accuracy).seen["proxies"]["zico"]["correlation"] < 0


def test_a_size_that_is_better_when_lower_still_measures_size():
    scores, accuracy = table()
    turned = scores.assign(params=-scores["params"])
    libra = Libra(higher_is_better="fit").fit(turned, accuracy)
    assert libra.seen["proxies"]["params"]["bias"] == pytest.approx(-1)
    assert libra.seen["accuracy_bias"] == pytest.approx(stats.spearmanr(turned["params"], accuracy).statistic)


def test_ties_are_given_their_mean_rank_and_equals_go_to_the_first():
    scores, accuracy = table()
    rounded = scores.round(0)
    libra = Libra().fit(rounded, accuracy)
    rho = stats.spearmanr(rounded["zico"], accuracy).statistic
    assert libra.seen["proxies"]["zico"]["correlation"] == pytest.approx(rho)
    same = pd.DataFrame({"b": scores["zico"], "a": scores["zico"]})
    assert Libra(size=None).fit(same, accuracy).selected == ("b", "a")


@pytest.mark.parametrize("kind", [Libra, LibraChecked])
def test_too_few_rows_and_few_rows(kind):
    scores, accuracy = table()
    with pytest.raises(InputError, match=r"9 networks.*10 are the least"):
        kind().fit(scores[:9], accuracy[:9])
    few = kind().fit(scores[:10], accuracy[:10])
    assert "only 10 networks" in few.report()
    assert few.score(scores).notna().all()


@pytest.mark.parametrize("given", ["frame", "dict", "column", "csv", "benchmark", "shuffled"])
def test_every_kind_of_table_gives_the_same(given, tmp_path):
    scores, accuracy = table()
    names = [f"net{i}" for i in range(200)]
    expected = Libra().fit(scores, accuracy)
    named = scores.set_axis(names)
    whole = named.assign(task="t", val_accuracy=accuracy.to_numpy()).rename_axis("arch")
    if given == "frame":
        libra = Libra().fit(scores, accuracy.tolist())
    elif given == "dict":
        libra = Libra().fit({name: scores[name].tolist() for name in scores}, accuracy.to_numpy())
    elif given == "column":
        libra = Libra().fit(scores.assign(top1=accuracy), "top1")
    elif given == "shuffled":
        libra = Libra().fit(named.sample(frac=1, random_state=0), accuracy.set_axis(names))
    else:
        whole.to_csv(tmp_path / "scores.csv")
        if given == "csv":
            libra = Libra().fit(tmp_path / "scores.csv", "val_accuracy")
            assert libra.seen["source"] == {"file": "scores.csv", "accuracy": "val_accuracy"}
        else:
            libra = Libra().fit(Benchmark.load(tmp_path / "scores.csv"), task="t")
            assert libra.seen["source"] == {"benchmark": "scores", "task": "t", "file": "scores.csv"}
    assert libra.selected == expected.selected
    assert libra.seen["proxies"].keys() == expected.seen["proxies"].keys()
    for name, row in libra.seen["proxies"].items():
        assert row["gain"] == pytest.approx(expected.seen["proxies"][name]["gain"])


def test_rows_are_matched_by_label_and_the_others_reported():
    scores, accuracy = table()
    libra = Libra().fit(scores, accuracy[50:].set_axis(range(50, 200)))
    assert libra.seen["networks"] == 150 and "50 of 200 rows without an accuracy" in libra.report()


def test_rank_and_score_of_new_candidates():
    scores, accuracy = table()
    libra = Libra(merge="rank").fit(scores, accuracy)
    new = table(20, seed=5)[0].set_axis([f"new{i}" for i in range(20)])
    new.loc["new3", "zico"] = np.nan
    ranks = libra.rank(new)
    by_hand = sum(new.drop("new3")[name].rank() for name in libra.selected)
    assert libra.score(new).drop("new3").to_dict() == by_hand.to_dict()
    assert ranks.index[0] == by_hand.idxmax() and ranks.index[-1] == "new3" and np.isnan(ranks.iloc[-1])
    assert ranks.dropna().is_monotonic_increasing
    assert ranks.drop("new3").to_dict() == by_hand.rank(ascending=False).to_dict()
    with pytest.raises(InputError, match=r"the scores lack zico.*columns: nwot"):
        libra.rank(new[["nwot", "params", "snip"]])


@pytest.mark.parametrize("kind", [Libra, LibraChecked])
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    scores, accuracy = table()
    turned = scores.assign(nwot=-scores["nwot"])
    libra = kind(higher_is_better={"nwot": False}).fit(turned, accuracy)
    loaded = Libra.load(libra.save(tmp_path / "libra.json"))
    assert type(loaded) is kind
    assert loaded.to_dict() == libra.to_dict() and loaded.report() == libra.report()
    assert repr(loaded) == repr(libra)
    assert (loaded.score(turned) == libra.score(turned)).all()
    json.loads((tmp_path / "libra.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)  # no NaN in it


def test_the_version_that_fitted_it_stays(tmp_path):
    data = Libra().fit(*table()).to_dict() | {"version": "0.0.7"}
    assert Libra.from_dict(data).to_dict()["version"] == "0.0.7"


@pytest.mark.parametrize("change", [{"format": 99}, {"kind": "Scales"}, {"seen": {}}, {"settings": {"colour": 1}}])
def test_what_is_no_fitted_libra_is_refused(change):
    data = Libra().fit(*table()).to_dict()
    with pytest.raises(InputError, match="no fitted LIBRA"):
        Libra.from_dict(data | change)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    for name, message in (("text.json", "no JSON"), ("list.json", "holds no fitted"), ("none.json", "there is no fi")):
        with pytest.raises(InputError, match=message):
            Libra.load(tmp_path / name)
    with pytest.raises(InputError, match="Did you mean 'nasbench301/cifar10'"):
        Libra.load("nasbench301/cifar")


SCORES, ACCURACY = table()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Libra(merge="sum"), "merge='sum'"),
        (lambda: Libra(tolerance=-1), "tolerance=-1"),
        (lambda: Libra(bins="stugres").fit(SCORES, ACCURACY), "Did you mean 'sturges'"),
        (lambda: Libra(bias="spearman").fit(SCORES, ACCURACY), "bias='spearman'"),
        (lambda: Libra(outliers="drop").fit(SCORES, ACCURACY), "outliers='drop'"),
        (lambda: Libra(higher_is_better="fitted").fit(SCORES, ACCURACY), "'fit', or None"),
        (lambda: Libra(higher_is_better={"zicco": False}).fit(SCORES, ACCURACY), "Did you mean 'zico'"),
        (lambda: Libra().fit(SCORES), "needs accuracies"),
        (lambda: Libra().fit(SCORES, ACCURACY[:7].tolist()), "7 accuracies for 200 rows"),
        (lambda: Libra().fit(SCORES, ["a"] * 200), "no number"),
        (lambda: Libra().fit(SCORES, "top1"), "no column 'top1'"),
        (lambda: Libra().fit(SCORES, ACCURACY, task="t"), "leave it out"),
        (lambda: Libra().fit(SCORES, ACCURACY.set_axis([f"x{i}" for i in range(200)])), "no label of the scores"),
        (lambda: Libra().fit(SCORES, ACCURACY * 0), "accuracy is the same for all"),
        (lambda: Libra().fit(SCORES * 0, ACCURACY), "no proxy is left"),
        (lambda: Libra().fit(SCORES.assign(accuracy=1.0), ACCURACY), "a proxy is called 'accuracy'"),
        (lambda: Libra().fit(SCORES.set_axis([0] * 200), ACCURACY.tolist()), "same label"),
        (lambda: Libra().fit(SCORES.set_axis([0] * 200), ACCURACY), "a label occurs twice"),
        (lambda: Libra().fit("nowhere.csv", "top1"), "there is no file"),
        (lambda: Libra().fit("nowhere.csv"), "name the column"),
        (lambda: Libra().fit(Benchmark.load("nasbench201"), ACCURACY), "its own accuracies"),
        (lambda: Libra().fit(Benchmark.load("nasbench201"), task="cifar100"), "has no task 'cifar100'.*Did you"),
        (lambda: Libra().selected, "is not fitted"),
        (lambda: Libra().report(), "is not fitted"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_file_with_several_tasks_and_texts(tmp_path):
    scores, accuracy = table()
    frames = [scores.assign(top1=accuracy * sign, task=name, kind="cell") for name, sign in (("up", 1), ("down", -1))]
    pd.concat(frames).to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(InputError, match=r"holds several tasks.*up, down"):
        Libra().fit(tmp_path / "s.csv", "top1")
    libra = Libra().fit(tmp_path / "s.csv", "top1", "down")
    assert libra.seen["proxies"]["zico"]["correlation"] < -0.5 and "columns kind" in libra.report()


def test_the_report_shows_the_whole_choice():
    libra = Libra().fit(*table())
    report = libra.report()
    for name, row in libra.seen["proxies"].items():
        line = next(line for line in report.splitlines() if line[2:].startswith(f"{name} "))
        assert f"{row['correlation']:.3f}" in line and line.startswith("*") == (name in libra.selected)
        assert f"{row['bias']:.3f}" in line
    first, second, third = libra.selected
    assert f"1. {first}: the highest correlation" in report
    assert f"2. {second}: within 0.1 of it" in report and f"3. {third}: of the other 2 the bias" in report


# ------------------------------------------------------------------ what comes with the package


@pytest.mark.parametrize("name", list_fitted())
def test_every_fitted_one_ranks_and_says_where_it_is_from(name):
    libra = Libra.load(name)
    assert type(libra) is (LibraChecked if name.endswith("/checked") else Libra)
    rng = np.random.default_rng(0)
    assert libra.rank({member: rng.normal(size=9) for member in libra.selected}).notna().all()
    source = libra.seen["source"]
    assert f"{source['benchmark']}/{source['task']}" == name.removesuffix("/checked")
    assert {"file", "sha256", "rows", "published by"} <= source.keys()
    assert source["rows"] >= libra.seen["networks"] >= 300


def test_every_benchmark_has_both():
    names = list_fitted()
    assert len(names) == 20
    assert {f"{name}/checked" for name in names if not name.endswith("/checked")} <= {*names}


def test_their_proxies_are_ones_that_this_package_computes():
    from lswag_hooks.proxies import list_proxies

    assert {member for name in list_fitted() for member in Libra.load(name).selected} <= {*list_proxies()}


@pytest.mark.skipif(DATA is None, reason="LSWAG_DATA is not set")
@pytest.mark.parametrize("name", ["nasbench301/cifar10", "transnasbench_micro/jigsaw/checked", "nasbench101/cifar10"])
def test_a_fitted_one_is_what_a_fit_gives(name):
    stored = Libra.load(name)
    path = next(Path(DATA, "benchmarks").glob(stored.seen["source"]["file"]))
    again = type(stored)().fit(Benchmark.load(path), task=stored.seen["source"]["task"])
    assert again.weights == stored.weights
    assert {n: row["gain"] for n, row in again.seen["proxies"].items()} == pytest.approx(
        {n: row["gain"] for n, row in stored.seen["proxies"].items()}
    )


def test_evidence_is_turned_so_that_higher_is_better():
    scores, accuracy = table()
    evidence = gather(Given(-scores, accuracy, {}), higher_is_better="fit")
    assert (evidence.scores == scores).all(axis=None)
    assert min(evidence.correlations.values()) > 0 and evidence.best == "snip"
