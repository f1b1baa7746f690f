"""The scripts of the paper: measured on tiny tables made here, judged against SciPy, autograd and loops."""

import functools
import gzip
import importlib
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import lswag_hooks as lh
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.errors import InputError
from lswag_hooks.functional.lswag import percentile
from recipes.paper import ensembles, fig5, fig11, layers, tab1, tab5, tab8, tasks, theorem
from recipes.paper.common import command, configured, published, report, side_by_side
from recipes.paper.tasks import TASKS, Measuring, Scores

SCRIPTS = [
    "tab1",
    "tab3",
    "tab4",
    "tab5",
    "tab6",
    "tab8",
    "fig2",
    "fig3",
    "fig4",
    "fig5",
    "fig7",
    "fig8",
    "fig9",
    "fig10",
    "fig11",
]
REAL = os.environ.get("LSWAG_DATA")


# ---------------------------------------------------------------------- Theorem 1


def torch_run(start, samples, labels, rate):
    """Gradients, the theorem's step and an epoch of single steps, by autograd and loops."""
    x, y = torch.tensor(samples), torch.tensor(labels)

    def loss(a, i):
        return 0.5 * (a @ x[i] - y[i]) ** 2

    def gradient(a, i):
        leaf = a.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf, i), leaf)[0]

    a = torch.tensor(start)
    gradients = torch.stack([gradient(a, i) for i in range(len(x))])
    step = a - rate * gradients.sum(0)
    moving = a.clone()
    for i in range(len(x)):
        moving -= rate * gradient(moving, i)
    totals = [float(sum(loss(after, i) for i in range(len(x)))) for after in (step, moving)]
    return gradients.numpy(), *totals


def made_samples(number=9, inputs=6, seed=3):
    rng = np.random.default_rng(seed)
    return theorem.normalised(rng.normal(size=(number, inputs))), rng.integers(0, 10, number).astype(float)


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.3, 2.0])
def test_theorem_against_autograd(rate, monkeypatch):
    samples, labels = made_samples()
    starts = np.random.default_rng(1).normal(size=(4, samples.shape[1]))
    given = iter(starts)
    monkeypatch.setattr(theorem, "start", lambda *_: next(given))
    found = theorem.experiment(samples, labels, rate, repeats=4)
    for index, start in enumerate(starts):
        gradients, step, epoch = torch_run(start, samples, labels, rate)
        bound = 0.0
        for j in range(samples.shape[1]):
            mean = math.fsum(gradients[:, j]) / len(gradients)
            variance = math.fsum((value - mean) ** 2 for value in gradients[:, j]) / len(gradients)
            bound += len(samples) / 2 * (variance + (len(samples) * rate - 1) ** 2 * mean**2)
        assert found.bound[index] == pytest.approx(bound, rel=1e-10)
        assert found.step[index] == pytest.approx(step, rel=1e-10)
        assert found.epoch[index] == pytest.approx(epoch, rel=1e-10)
        assert step <= bound * (1 + 1e-12)


def test_the_bound_is_tight_for_equal_samples_and_zicos_is_too_low():
    samples, labels = np.tile([[0.6, 0.8]], (5, 1)), np.full(5, 3.0)
    found = theorem.experiment(samples, labels, rate=0.3, repeats=6)
    np.testing.assert_allclose(found.step, found.bound, rtol=1e-12)
    whole = 5 * (found.mean + found.variance)  # ZiCo: G/2 - eta/2 M^2 (2 - eta) sum mu^2, without the M before eta^2
    zico = whole / 2 - 0.3 / 2 * 25 * (2 - 0.3) * found.mean
    assert (found.step > zico).all()
    assert found.held(found.bound * 1.01) == 0


@pytest.mark.parametrize("name", theorem.INITS)
def test_starts_are_spread_as_torchs(name):
    ours = theorem.start(name, 20_000, np.random.default_rng(0))
    layer = torch.empty(1, 20_000)
    getattr(nn.init, name + "_")(layer)
    assert ours.std() == pytest.approx(float(layer.std()), rel=0.03)
    assert stats.kstest(ours, layer.numpy()[0]).pvalue > 1e-3


def test_fig5_checks_every_run_and_writes(tmp_path, capsys):
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.savez(data / "images" / "mnist.npz", images=rng.integers(1, 255, (40, 4, 4)), labels=np.arange(40) % 10)
    assert fig5.main([str(data), "--out", str(tmp_path / "out"), "--images", "30", "--repeats", "12"]) == 0
    table = pd.read_csv(tmp_path / "out" / "fig5.csv")
    runs = pd.read_csv(tmp_path / "out" / "fig5_runs.csv")
    assert len(table) == 6 and len(runs) == 36
    assert (table.loc[table["after"] == "step", "bound_held"] == 1).all()
    part = runs[runs["rate"] == 0.001]
    said = table[(table["rate"] == 0.001) & (table["after"] == "epoch")]["spearman"].item()
    assert said == pytest.approx(stats.spearmanr(part["mean"], part["epoch"]).statistic)
    assert "the bound holds in every run" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"mnist\.npz has 40"):
        fig5.digits(data, 41, 0)
    with pytest.raises(InputError, match="get MNIST"):
        fig5.digits(tmp_path, 5, 0)


# ---------------------------------------------------------------------- parts of L-SWAG


def small_net():
    sizes = [12, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 5, 4]
    blocks = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Linear(4, 3))


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    model = small_net()
    batch = lh.Batch(torch.randn(16, 12), torch.arange(16) % 3)
    return model, batch, dict(lh.score(model, batch, layers.tenths()))


@pytest.mark.parametrize("interval", [(0, 9), (0, 0), (2, 6), (9, 9)])
def test_tenths_add_up_to_lswag(parts, interval):
    model, batch, found = parts
    whole = lh.score(model, batch, lh.LSWAG(interval=interval))["lswag"]
    assert layers.summed(pd.DataFrame([found]), "product", False, interval).item() == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("mean", [False, True])
def test_tenths_of_trainability_against_a_loop_over_samples(parts, mean):
    model, batch, found = parts
    weights = [module.weight for module in model if isinstance(module, nn.Linear)]
    gradients = []
    for i in range(len(batch)):
        loss = nn.functional.cross_entropy(model(batch.inputs[i : i + 1]), batch.targets[i : i + 1])
        gradients.append([g.abs().double().numpy() for g in torch.autograd.grad(loss, weights)])
    expected = np.zeros(10)
    for index in range(len(weights)):
        rows = np.stack([one[index].ravel() for one in gradients])
        deviation, average = rows.std(axis=0), rows.mean(axis=0)
        alive = deviation > 0
        total = ((average if mean else np.ones_like(average))[alive] / deviation[alive]).sum()
        expected[percentile(index, len(weights))] += math.log(total) if total > 0 else 0.0
    ours = [found[layers.column("trainability", mean, tenth)] for tenth in range(10)]
    np.testing.assert_allclose(ours, expected, rtol=2e-3)


def test_tenths_of_expressivity_against_distinct_columns(parts):
    model, batch, found = parts
    values, counts = batch.inputs, []
    for module in model:
        values = module(values)
        if isinstance(module, nn.ReLU):
            counts.append(len(np.unique((values > 0).numpy(), axis=1).T))
    expected = np.zeros(10)
    for index, count in enumerate(counts):
        expected[percentile(index, len(counts))] += count
    assert [found[layers.column("expressivity", False, tenth)] for tenth in range(10)] == expected.tolist()


def made_scores(key="nb201-c10", networks=40, seed=0):
    """Tenths and accuracies made up, two networks without a score."""
    rng = np.random.default_rng(seed)
    names = [proxy.key for proxy in layers.tenths()]
    frame = pd.DataFrame(rng.normal(size=(networks, len(names))), [f"net{i}" for i in range(networks)], names)
    frame["depth"] = rng.integers(5, 30, networks)
    frame.iloc[:2] = np.nan
    return Scores(TASKS[key], frame, pd.Series(rng.normal(size=networks), frame.index))


def test_ablation_and_tenths_against_scipy():
    scores = made_scores()
    inside = scores.frame.index[2:]

    def rho(prefix, first, last):
        total = sum(scores.frame.loc[inside, f"{prefix} {tenth}"] for tenth in range(first, last + 1))
        return stats.spearmanr(total, scores.accuracy[inside]).statistic

    found = layers.ablation(scores, (3, 5))
    assert found["ZiCo"] == pytest.approx(rho("trainability with mean", 0, 9))
    assert found["no mean + layers"] == pytest.approx(rho("trainability", 3, 5))
    assert found["expressivity"] == pytest.approx(rho("expressivity", 0, 9))
    assert found["layers + expressivity"] == pytest.approx(rho("product with mean", 3, 5))
    assert found["L-SWAG"] == pytest.approx(rho("product", 3, 5))
    assert list(found.index) == list(published("tab3").index)
    by_tenth = layers.by_tenth(scores)
    assert by_tenth["4"] == pytest.approx(rho("product", 3, 3))
    assert by_tenth["all"] == pytest.approx(found["no mean + expressivity"])
    curves = layers.curves_of(scores)
    assert curves.curves.shape == (38, 10)
    np.testing.assert_allclose(curves.mean[7], scores.frame["deviation 7"].mean())
    third = [
        row["trainability 2"] / sum(10 * layer // int(row["depth"]) == 2 for layer in range(int(row["depth"])))
        for _, row in scores.frame[scores.frame["depth"] >= 10].iterrows()
    ]
    deep = layers.curves_of(scores, "trainability").curves[:, 2][layers.curves_of(scores).depths >= 10]
    np.testing.assert_allclose(deep, third)


# ---------------------------------------------------------------------- ensembles


def proxies_made(networks=60, seed=0):
    rng = np.random.default_rng(seed)
    accuracy = rng.normal(size=networks)
    noise = dict(zip([*ensembles.AZ_NAS, *ensembles.TE_NAS, "t_cet", "nwot", "params", "snip"], range(9), strict=False))
    frame = pd.DataFrame({name: accuracy + (0.5 + 0.2 * k) * rng.normal(size=networks) for name, k in noise.items()})
    frame["snip"] = accuracy + 0.6 * rng.normal(size=networks)
    frame["te_nas_kappa"] *= -1  # lower is better
    return Scores(TASKS["nb301"], frame, pd.Series(accuracy), {"te_nas_kappa": False})


def test_ensembles_against_their_definitions():
    scores = proxies_made()
    frame, truth = scores.frame, scores.accuracy

    def ranks(name, sign=1):
        return stats.rankdata(sign * frame[name])

    az = sum(np.log(ranks(name) / len(frame)) for name in ensembles.AZ_NAS)
    te = ranks("te_nas_kappa", -1) + ranks("te_nas_regions")
    found = ensembles.aggregated(scores)
    assert found["AZ-NAS"] == pytest.approx(stats.spearmanr(az, truth).statistic)
    assert found["TE-NAS"] == pytest.approx(stats.spearmanr(te, truth).statistic)
    assert found["T-CET"] == pytest.approx(stats.spearmanr(frame["t_cet"], truth).statistic)


def test_libra_is_the_packages_and_its_other_half_is_not_seen():
    scores = proxies_made()
    whole, chosen = ensembles.fitted(scores)
    turned = scores.frame.assign(te_nas_kappa=-scores.frame["te_nas_kappa"])
    libra = lh.Libra().fit(turned, scores.accuracy)
    assert chosen["LIBRA"] == libra.selected
    assert whole["LIBRA"] == pytest.approx(stats.spearmanr(libra.score(turned), scores.accuracy).statistic)
    found = []
    for seed in range(ensembles.HALVES):
        order = np.random.default_rng(seed).permutation(60)
        fitted = lh.Libra().fit(turned.iloc[order[:30]], scores.accuracy.iloc[order[:30]])
        rest = order[30:]
        found.append(stats.spearmanr(fitted.score(turned.iloc[rest]), scores.accuracy.iloc[rest]).statistic)
    assert ensembles.held_out(scores)["LIBRA, other half"] == pytest.approx(np.mean(found))


def test_choices_and_biases_against_scipy():
    scores = proxies_made()
    found = ensembles.choices(scores)
    assert set(found) == set(published("tab4").index)
    pair = sum(np.log(stats.rankdata(scores.frame[name]) / 60) for name in ("nwot", "params"))
    assert found["2 gradient-free"] == pytest.approx(stats.spearmanr(pair, scores.accuracy).statistic)
    values, ranks = ensembles.biases(scores, False), ensembles.biases(scores, True)
    params = scores.frame["params"]
    assert values["snip"] == pytest.approx(stats.pearsonr(scores.frame["snip"], params).statistic)
    assert ranks["accuracy"] == pytest.approx(stats.spearmanr(scores.accuracy, params).statistic)
    assert values["params"] == pytest.approx(1) and ranks["params"] == pytest.approx(1)


def test_few_networks_give_no_libra_and_no_crash():
    scores = proxies_made(networks=8)
    assert ensembles.fitted(scores) == ({}, {})
    assert ensembles.choices(scores) == {}
    assert "AZ-NAS" in ensembles.aggregated(scores)


# ---------------------------------------------------------------------- search


def test_picks_of_known_networks(monkeypatch):
    monkeypatch.setattr(tab8, "PICKS", 40)
    rng = np.random.default_rng(0)
    accuracy = pd.Series(rng.uniform(70, 80, 60))
    frame = pd.DataFrame({"lswag": accuracy, "params": rng.normal(size=60), "nwot": accuracy + rng.normal(size=60)})
    frame.loc[0, "nwot"] = np.nan  # not counted
    found = tab8.picks(Scores(TASKS["vit-tiny"], frame, accuracy), candidates=20)
    assert found["lswag"]["mean"] == pytest.approx(found["the best there is"]["mean"])
    assert found["random: one of them"]["mean"] == pytest.approx(100 - accuracy[1:].mean(), abs=1.5)
    assert found["lswag"]["mean"] <= found["LIBRA"]["mean"] < found["random: one of them"]["mean"]
    with pytest.raises(InputError, match="candidates=55"):
        tab8.picks(Scores(TASKS["vit-tiny"], frame, accuracy), candidates=55)


def test_results_of_evaluate(tmp_path):
    file = tmp_path / "result.json"
    file.write_text('{"architecture": "a", "error": 18.5}')
    assert tab8.read_results([str(file)]) == {"a": 18.5}
    file.write_text("{}")
    with pytest.raises(InputError, match="evaluate"):
        tab8.read_results([str(file)])


# ---------------------------------------------------------------------- initialisations


def test_networks_of_a_scheme():
    space = lh.get_space("nasbench201")
    architecture = space.sample(rng=0)
    for scheme, gain in (("xavier", 2 / (3 * 9 + 16 * 9)), ("kaiming", 2 / 27), ("gaussian", 1.0)):
        made = fig11.drawn(space, scheme)
        first, again = (made.build(architecture, seed=5) for _ in range(2))
        weight = next(m.weight for m in first.modules() if isinstance(m, nn.Conv2d))
        assert float(weight.detach().var()) == pytest.approx(gain, rel=0.2)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
        assert made.name == f"nasbench201 {scheme}" and space.name == "nasbench201"


# ---------------------------------------------------------------------- the command line


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("small", [False, True])
def test_every_configuration_fits_its_script(script, small, tmp_path):
    module = importlib.import_module(f"recipes.paper.{script}")
    seen = {}

    @functools.wraps(module.run)
    def stub(data, out, **options):
        seen.update(options)

    assert command(stub, [str(tmp_path), "--out", str(tmp_path / "out"), *["--small"] * small]) == 0
    measuring = seen.get("measuring")
    if measuring is not None:
        assert measuring.stand_ins == small and not {*measuring.tasks} - {*TASKS}
        for key in measuring.tasks:
            full = 32 if TASKS[key].group in ("micro", "macro") else 64
            assert measuring.of("samples", TASKS[key]) == full or small


def test_a_configuration_of_ones_own_and_options_count_more(tmp_path):
    seen = {}

    @functools.wraps(fig5.run)
    def stub(data, out, **options):
        seen.update(options)

    own = tmp_path / "own.yaml"
    own.write_text("images: 7\nrates: [0.5]\nsmall: {repeats: 9}\n")
    options = [str(tmp_path), "--out", str(tmp_path / "out"), "--small", "--config", str(own), "--images", "8"]
    assert command(stub, options) == 0
    assert seen == {"images": 8, "rates": [0.5], "repeats": 9, "seed": 0}


def test_configurations_are_laid_over_each_other(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("a: {x: 1, y: 2}\nsmall: {a: {y: 3}}\n")
    assert configured([own], False, set()) == {"a": {"x": 1, "y": 2}}
    assert configured([own], True, set()) == {"a": {"x": 1, "y": 3}}
    with pytest.raises(InputError, match="cannot be read"):
        configured([tmp_path / "none.yaml"], False, set())


def test_published_figures():
    keys = [key for key in TASKS if not key.startswith("vit")]
    for name, rows in (("tab1", 4), ("tab5", 11), ("tab6", 17)):
        assert list(published(name)) == keys and len(published(name)) == rows
    assert published("tab1").loc["LIBRA", "macro-scene"] == 0.91
    assert published("tab5").loc["1", "macro-obj"] == 0.89
    assert published("tab6").loc["reg_swap", "micro-jig"] == -0.78
    assert published("tab3").loc["L-SWAG", "macro-norm"] == 0.84
    assert published("tab8").loc["LIBRA-NAS", "test_error"] == 17.0


def test_report_shows_both_and_leaves_out_what_is_not_ours(tmp_path, capsys):
    both = side_by_side(pd.DataFrame({"nb301": [0.5]}, ["LIBRA"]), published("tab1"))
    report(tmp_path, "tab", "Tab.", both)
    shown = capsys.readouterr().out
    assert ".50 (.74)" in shown and "AZ-NAS" not in shown and "macro-segm" in shown
    assert pd.read_csv(tmp_path / "tab.csv").query("task == 'nb301' and what == 'LIBRA'")["paper"].item() == 0.74


def test_tables_of_long_names_lose_nothing_at_80_columns(tmp_path, capsys):
    ours = published("tab4") / 3
    report(tmp_path, "tab4", "Tab. 4", side_by_side(ours, published("tab4")))
    shown = capsys.readouterr().out
    for method, row in published("tab4").iterrows():
        assert method in shown
        for value in row:
            assert f"({value:.2f})".replace("(0.", "(.") in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 80


# ---------------------------------------------------------------------- measuring


@pytest.fixture
def data(tmp_path):
    """A folder of data with twelve networks of NAS-Bench-201 and sixteen pictures of noise."""
    folder = tmp_path / "data"
    for name in ("benchmarks", "images"):
        (folder / name).mkdir(parents=True)
    few = Benchmark.load("nasbench201").to_pandas().dropna().iloc[:12]
    few = few.rename(columns={"architecture": "arch", "accuracy": "val_accuracy"})
    with gzip.open(folder / "benchmarks" / "nasbench201.csv.gz", "wt") as file:
        few.to_csv(file, index=False)
    pictures = np.random.default_rng(0).integers(0, 255, (32, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "images" / "cifar10_png_sample.npz", images=pictures, labels=np.arange(32) % 10)
    return folder


def run(script, data, out, *options):
    tiny = ["--measuring.tasks", "[nb201-c10]", "--measuring.networks", "12", "--measuring.samples", "4"]
    return script.main([str(data), "--out", str(out), "--small", *tiny, "--measuring.sides.cifar10", "8", *options])


def test_tab5_measures_once_and_keeps_it(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(tab5, data, out) == 0
    first = pd.read_csv(out / "tab5.csv")
    ours = first[first["task"] == "nb201-c10"].set_index("what")["ours"]
    benchmark = Benchmark.load(data / "benchmarks" / "nasbench201.csv.gz")
    batch = lh.Batch.from_npz(data / "images" / "cifar10_png_sample.npz", 4, (3, 8, 8))
    space = lh.get_space("nasbench201")
    truth, scores = [], []
    for name, accuracy in benchmark.accuracy("cifar10").items():
        if space.validate(name) is None:
            model = space.build(name, image_size=8, seed=0)
            scores.append(lh.score(model, batch, lh.LSWAG(interval=(2, 2)), seed=0)["lswag"])
            truth.append(accuracy)
    assert ours["3"] == pytest.approx(stats.spearmanr(scores, truth).statistic)
    assert (out / "tab5.png").stat().st_size > 1000

    def refuse(*_):
        raise AssertionError("measured twice")

    monkeypatch.setattr("lswag_hooks.correlating.measure", refuse)
    assert run(tab5, data, out) == 0
    pd.testing.assert_frame_equal(pd.read_csv(out / "tab5.csv"), first)
    assert "nb201-c100" in capsys.readouterr().out  # of the paper's, not here


def test_tab1_from_measured_and_published(data, tmp_path):
    wanted = "t_cet,az_complexity,params,nwot"
    assert run(tab1, data, tmp_path / "out", "--measuring.proxies", wanted, "--measuring.published", "[nb201-c10]") == 0
    for source in ("measured", "published"):
        found = pd.read_csv(tmp_path / "out" / f"tab1_{source}.csv")
        found = found[found["task"] == "nb201-c10"].set_index("what")
        assert found.loc["LIBRA", "paper"] == 0.89
        assert np.isfinite(found.loc["LIBRA", "ours"])
        assert np.isfinite(found.loc["T-CET", "ours"]) == (source == "measured")


def test_proxies_that_a_tasks_networks_cannot_have_are_left_out():
    def keys(task, **options):
        return {proxy.key for proxy in tasks.every_proxy(TASKS[task], Measuring(**options))}

    whole = set(lh.list_proxies()) - {"reg_swap"}
    assert keys("nb201-c10") == whole - {"tf_tas"}
    assert keys("macro-norm") == whole - {"tf_tas", "fisher"}
    assert keys("vit-tiny") == whole - {"az_progressivity", "te_nas_regions"}
    assert keys("micro-obj", left_out={"micro": ["gradsign"]}) == whole - {"tf_tas", "gradsign"}
    assert keys("macro-norm", proxies="fisher,lswag") == {"fisher", "lswag"}


def test_what_is_missing_is_told_at_once_and_before_any_work(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError) as error:
        tab5.main([str(data), "--out", str(out)])
    said = str(error.value)
    assert "tasks that cannot be measured: 18\n" in said
    assert "nb201-c100" in said and "zc_nasbench201.json" in said and "nb301" in said
    assert "https://github.com/automl/NASLib" in said and not (out / "scores.db").exists()
    with pytest.raises(InputError, match="imagenet16"):
        tasks.batch_of(TASKS["nb201-in16"], lh.get_space("nasbench201"), data, Measuring())
    with pytest.raises(InputError, match="sample_benchmark"):
        tasks.table_of(TASKS["vit-small"], data)
    with pytest.raises(InputError, match="nowhere"):
        tab5.main([str(tmp_path / "nowhere"), "--out", str(out)])
    with pytest.raises(InputError, match="nb777"):
        Measuring(tasks=["nb777"])


def test_stopped_and_resumed(data, tmp_path, monkeypatch, capsys):
    import lswag_hooks.correlating as correlating

    whole, done = correlating.measure, []

    def stopping(work, name):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(name)
        return whole(work, name)

    monkeypatch.setattr(correlating, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tab5, data, tmp_path / "out")
    assert "stopped after 5 of 12" in capsys.readouterr().out

    def counting(work, name):
        done.append(name)
        return whole(work, name)

    monkeypatch.setattr(correlating, "measure", counting)
    assert run(tab5, data, tmp_path / "out") == 0
    assert len(done) == len({*done}) == 12


# ---------------------------------------------------------------------- real data


@pytest.mark.skipif(not REAL, reason="LSWAG_DATA is not set")
def test_published_proxies_of_a_real_table_against_scipy():
    task = TASKS["macro-norm"]
    file = Path(REAL, "benchmarks", "transbench101_macro.csv.gz")
    raw = pd.read_csv(file).query("task == 'normal'")
    found = tasks.published_scores(tasks.table_of(task, Path(REAL)), task).correlations()
    known = raw[raw[["flops", "nwot"]].abs().max(axis=1) < 1e8].set_index("arch")
    for name in ("flops", "nwot"):
        rows = known[known[name].notna() & known["snip"].notna()]
        assert found[name] == pytest.approx(stats.spearmanr(rows[name], rows["val_accuracy"]).statistic, abs=0.01)


@pytest.mark.skipif(not REAL, reason="LSWAG_DATA is not set")
def test_theorem_on_real_digits():
    samples, labels = fig5.digits(Path(REAL), 200, 0)
    np.testing.assert_allclose(np.linalg.norm(samples, axis=1), 1)
    for rate in (1e-4, 1e-3, 1e-2, 1.0):
        found = theorem.experiment(samples, labels, rate, 20)
        assert found.held(found.step) == 1
    assert stats.spearmanr(found.mean, found.step).statistic > 0
