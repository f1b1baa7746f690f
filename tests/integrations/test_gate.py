"""The gate against a loop over the trials, and what a study keeps of it."""

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.integrations import OptunaGate, ScorePruner, check_score

optuna.logging.set_verbosity(optuna.logging.WARNING)
STATES = optuna.trial.TrialState


def run(values, study=None, **options):
    """A study whose trials have these scores, in order."""
    study = study or optuna.create_study()
    left = iter(values)

    def objective(trial):
        check_score(trial, next(left), **options)
        return 0.0

    study.optimize(objective, n_trials=len(values))
    return study


def expected(values, quantile, warmup):
    """Which are pruned, by sorting by hand (linear interpolation between the two nearest)."""
    pruned = []
    for number, value in enumerate(values):
        earlier = sorted(values[:number])
        place = quantile * (len(earlier) - 1)
        below = int(place) if earlier else 0
        above = min(below + 1, len(earlier) - 1)
        limit = earlier[below] + (place - below) * (earlier[above] - earlier[below]) if earlier else -np.inf
        pruned.append(number >= max(warmup, 1) and value < limit - 1e-12)
    return pruned


@pytest.mark.parametrize(("quantile", "warmup"), [(0.5, 10), (0.25, 3), (0.0, 0), (0.9, 1)])
def test_those_below_the_quantile_of_earlier_trials_are_pruned(quantile, warmup):
    values = list(np.random.default_rng(0).normal(size=40))
    study = run(values, quantile=quantile, warmup=warmup)
    assert [trial.state == STATES.PRUNED for trial in study.trials] == expected(values, quantile, warmup)
    assert [trial.user_attrs["score lswag"] for trial in study.trials] == values


@pytest.mark.parametrize(("quantile", "warmup"), [(0.5, 10), (0.0, 0), (0.9, 1)])
def test_the_pruner_turns_away_those_that_the_gate_does(quantile, warmup):
    values = list(np.random.default_rng(0).normal(size=40))
    study = optuna.create_study(pruner=ScorePruner(quantile=quantile, warmup=warmup))
    left = iter(values)

    def objective(trial):
        assert not trial.should_prune()  # it has no score yet
        trial.set_user_attr("score lswag", next(left))
        if trial.should_prune():
            raise optuna.TrialPruned
        return 0.0

    study.optimize(objective, n_trials=len(values))
    assert [trial.state == STATES.PRUNED for trial in study.trials] == expected(values, quantile, warmup)


def test_those_in_training_are_left_to_another_pruner():
    values = [3.0, 1.0, 2.0, 4.0]

    def states(then):
        study = optuna.create_study(pruner=ScorePruner("mine", warmup=1, quantile=0.0, then=then))
        left = iter(values)

        def objective(trial):
            trial.set_user_attr("score mine", next(left))
            if trial.should_prune():
                raise optuna.TrialPruned
            for step in range(3):
                trial.report(float(trial.number == 3), step)  # the last one is worse than those before
                if trial.should_prune():
                    raise optuna.TrialPruned
            return 0.0

        study.optimize(objective, n_trials=4)
        return [trial.state.name for trial in study.trials]

    assert states(None) == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    median = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    assert states(median) == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]


def test_where_lower_is_better_the_same_trials_are_pruned_as_with_signs_turned():
    values = list(np.random.default_rng(1).normal(size=30))
    one = run(values, quantile=0.7)
    other = run([-value for value in values], quantile=0.7, higher_is_better=False)
    assert [t.state for t in one.trials] == [t.state for t in other.trials]
    assert any(t.state == STATES.PRUNED for t in one.trials)


def test_equal_scores_are_not_pruned():
    assert {trial.state for trial in run([1.0] * 8, warmup=0).trials} == {STATES.COMPLETE}


def test_a_study_that_is_loaded_again_goes_on_with_what_it_knew(tmp_path):
    values = list(np.random.default_rng(2).normal(size=24))
    storage = f"sqlite:///{tmp_path / 'study.sqlite'}"
    whole = run(values, warmup=4)
    run(values[:10], optuna.create_study(study_name="gate", storage=storage), warmup=4)
    again = run(values[10:], optuna.load_study(study_name="gate", storage=storage), warmup=4)
    assert [trial.state for trial in again.trials] == [trial.state for trial in whole.trials]


def test_a_later_trial_that_was_scored_first_does_not_count():
    study = optuna.create_study()
    first, second = study.ask(), study.ask()
    check_score(second, 100.0, warmup=1)
    check_score(first, 1.0, warmup=1)  # has no earlier trial
    with pytest.raises(optuna.TrialPruned, match=r"lswag is 0; the 50% worst of 2 earlier"):
        check_score(study.ask(), 0.0, warmup=1)


def test_another_score_does_not_count():
    study = run([5.0] * 3, key="zico", warmup=1)
    assert run([1.0], study, key="swap", warmup=1).trials[-1].state == STATES.COMPLETE


def net(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.fixture
def batch():
    return lh.Batch.builtin("digits", size=(1, 8, 8), samples=16)


def test_the_gate_scores_as_score_does_and_leaves_the_network_alone(batch):
    model = net(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    study = optuna.create_study()
    trial = study.ask()
    result = OptunaGate(batch, "zico")(trial, model)
    assert result["zico"] == lh.score(model, batch, "zico")["zico"] == study.trials[0].user_attrs["score zico"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_gate_turns_away_by_the_proxys_own_direction(batch):
    lower = next(name for name in lh.list_proxies() if not lh.proxies.proxy_class(name).higher_is_better)
    gate = OptunaGate((batch.inputs, batch.targets), "params", warmup=2)
    study = optuna.create_study()

    def objective(trial):
        gate(trial, lambda: net(trial.suggest_int("width", 1, 99)))
        return 0.0

    for width in (10, 20, 5, 40):
        study.enqueue_trial({"width": width})
    study.optimize(objective, n_trials=4)
    assert [trial.state for trial in study.trials] == [STATES.COMPLETE] * 2 + [STATES.PRUNED, STATES.COMPLETE]
    assert OptunaGate(batch, lower)._proxy().higher_is_better is False


def test_what_cannot_be_scored_fails_by_name_and_a_study_may_go_on(batch):
    gate = OptunaGate(batch)
    study = optuna.create_study()
    with pytest.raises(lh.InputError):
        gate(study.ask(), nn.Flatten())
    study.optimize(lambda trial: gate(trial, nn.Flatten()) and 0.0, n_trials=2, catch=lh.InputError)
    assert [trial.state for trial in study.trials[1:]] == [STATES.FAIL] * 2


def test_a_kept_score_is_for_the_pruner(batch):
    study = optuna.create_study(pruner=ScorePruner("params", warmup=2))

    def objective(trial):
        OptunaGate(batch, "params", warmup=0).keep(trial, net(trial.suggest_int("width", 1, 99)))
        if trial.should_prune():
            raise optuna.TrialPruned
        return 0.0

    for width in (10, 20, 5, 40):
        study.enqueue_trial({"width": width})
    study.optimize(objective, n_trials=4)
    assert [trial.state for trial in study.trials] == [STATES.COMPLETE] * 2 + [STATES.PRUNED, STATES.COMPLETE]
    with pytest.raises(lh.InputError, match="quantile=2"):
        ScorePruner(quantile=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantile": 1.0}, "quantile=1.0"),
        ({"quantile": -0.1}, "quantile=-0.1"),
        ({"quantile": True}, "quantile=True"),
        ({"warmup": -1}, "warmup=-1"),
        ({"warmup": 1.5}, "warmup=1.5"),
        ({"proxy": "lswag, zico"}, "one proxy"),
        ({"proxy": "zicco"}, "Did you mean 'zico'"),
    ],
)
def test_bad_options_are_told_before_any_trial(batch, options, said):
    with pytest.raises(lh.InputError, match=said):
        OptunaGate(batch, **options)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(lh.InputError, match="trial 0 is nan"):
        check_score(optuna.create_study().ask(), float("nan"))
