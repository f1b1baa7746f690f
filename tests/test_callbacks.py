import copy
import importlib
import json
import os
import subprocess
import sys
import textwrap
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lswag_hooks as lh
from lswag_hooks import callbacks
from lswag_hooks.callbacks import CandidateRejected, LSWAGCallback
from lswag_hooks.errors import InputError, UnsupportedError

PROXIES = ["lswag", "zico"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:`isinstance"),
]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    return pytest.importorskip(request.param)


def part(pl, name):
    return importlib.import_module(f"{pl.__name__}.{name}")


def data(samples=48):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(samples, 1, 8, 8, generator=generator), torch.randint(10, (samples,), generator=generator)
    )


def loader(**options):
    return DataLoader(data(), **{"batch_size": 8, "shuffle": True, **options})


def lit(pl, **overrides):
    """A LightningModule with everything that scoring could disturb; ``overrides`` replace its methods."""

    class Lit(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 10)
            )
            self.losses = []
            self.steps = 0

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = F.cross_entropy(self(x), y)
            self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
            self.log_dict({"a": loss})
            return loss

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.losses.append(outputs["loss"].item())

        def optimizer_step(self, *args, **kwargs):
            self.steps += 1
            super().optimizer_step(*args, **kwargs)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    torch.manual_seed(1)
    return type("Lit", (Lit,), overrides)()


def trainer(pl, *callbacks, **options):
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **options})


def fit(pl, *callbacks, model=None, train=None, ckpt_path=None, **options):
    pl.seed_everything(1, verbose=False)
    model = lit(pl) if model is None else model
    runs = trainer(pl, *callbacks, **options)
    runs.fit(model, loader() if train is None else train, ckpt_path=ckpt_path)
    return runs, model


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


OPTIONS = {
    "shuffled": {},
    "accumulated": {"accumulate_grad_batches": 2},
    "mixed": {"precision": "bf16-mixed"},
    "steps": {"max_epochs": -1, "max_steps": 7},
}
LIMITS = {
    "plain": {},
    "min_epochs": {"min_epochs": 1},
    "min_steps": {"min_steps": 3},
    "max_steps": {"max_epochs": -1, "max_steps": 5, "min_steps": 4},
    "progress bar": {"enable_progress_bar": True},
    "one batch": {"fast_dev_run": True},
}


class TestScoring:
    def test_it_is_a_callback_of_the_package(self, pl):
        callback = LSWAGCallback()
        assert isinstance(callback, pl.Callback)
        assert lh.LSWAGCallback is LSWAGCallback and lh.CandidateRejected is CandidateRejected
        assert pl.Trainer(callbacks=callback, logger=False, accelerator="cpu").callbacks.count(callback) == 1

    def test_scores_are_those_of_score_on_the_first_samples_of_the_loader(self, pl):
        callback = LSWAGCallback(PROXIES, samples=20)
        model = lit(pl)
        expected = lh.score(
            model.net, lh.Batch.from_dataloader(loader(shuffle=False), samples=20), PROXIES, loss=F.cross_entropy
        )
        fit(pl, callback, model=model, train=loader(shuffle=False))
        assert callback.scores == pytest.approx(dict(expected), rel=1e-6)
        assert callback.result.samples == 20
        assert [row.shape for row in callback.result.profile.weights] == [(4, 1, 3, 3), (10, 144)]
        assert not callback.rejected

    def test_the_loss_may_be_given(self, pl):
        def loss(outputs, targets):
            return F.cross_entropy(outputs, targets, label_smoothing=0.5)

        plain, smooth = LSWAGCallback(), LSWAGCallback(loss=loss)
        fit(pl, plain)
        fit(pl, smooth)
        assert plain.scores["lswag"] != smooth.scores["lswag"]

    def test_training_step_without_an_index(self, pl):
        def training_step(self, batch):
            return F.cross_entropy(self(batch[0]), batch[1])

        callback = LSWAGCallback()
        fit(pl, callback, model=lit(pl, training_step=training_step))
        assert callback.scores["lswag"] > 0

    def test_a_module_that_optimises_by_hand_is_told_to_give_a_loss(self, pl):
        model = lit(pl)
        model.automatic_optimization = False
        with pytest.raises(InputError, match="pass loss="):
            fit(pl, LSWAGCallback(), model=model)

    def test_a_step_that_fetches_its_own_batches_is_told_to_give_a_loss(self, pl):
        model = lit(pl, training_step=lambda self, dataloader_iter: next(dataloader_iter))
        with pytest.raises(InputError, match=r"iterator over mini-batches.*loss="):
            fit(pl, LSWAGCallback(samples=12), model=model)

    def test_batches_pass_the_transfer_hooks(self, pl):
        seen = []

        def on_before_batch_transfer(self, batch, dataloader_idx):
            seen.append("before")
            return batch

        def on_after_batch_transfer(self, batch, dataloader_idx):
            seen.append("after")
            return batch[0].float() / 255, batch[1]  # raw bytes until here, which no Batch takes

        images = TensorDataset(torch.randint(256, (48, 1, 8, 8), dtype=torch.uint8), torch.arange(48) % 10)
        hooks = (on_before_batch_transfer, on_after_batch_transfer)
        callback = LSWAGCallback(samples=16)
        fit(
            pl,
            callback,
            model=lit(pl, **{hook.__name__: hook for hook in hooks}),
            train=DataLoader(images, batch_size=8),
            max_steps=1,
        )
        assert callback.scores["lswag"] > 0
        assert seen == ["before", "after"] * 3

    @pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
    def test_precision(self, pl, precision):
        callback, plain = LSWAGCallback(PROXIES), LSWAGCallback(PROXIES)
        fit(pl, callback, precision=precision)
        fit(pl, plain)
        assert callback.scores == pytest.approx(plain.scores, rel=0.02 if precision == "bf16-mixed" else 1e-4)
        assert callback.scores != plain.scores

    @pytest.mark.parametrize("compiled", ["module", "network"])
    def test_compiled(self, pl, compiled):
        callback, plain = LSWAGCallback(), LSWAGCallback()
        model = lit(pl)
        same = copy.deepcopy(model)
        if compiled == "module":
            model = torch.compile(model, backend="eager")
        else:
            model.net = torch.compile(model.net, backend="eager")
        fit(pl, callback, model=model)
        fit(pl, plain, model=same)
        assert callback.scores == pytest.approx(plain.scores, rel=1e-6)

    def test_a_copy_that_is_awake_knows_the_trainer(self, pl):
        def training_step(self, batch, batch_idx):
            assert self.trainer.max_epochs == 1
            return F.cross_entropy(self(batch[0]), batch[1])

        model = lit(pl, training_step=training_step)
        nn.init.zeros_(model.net[1].weight)
        callback = LSWAGCallback(init="wake")
        fit(pl, callback, model=model)
        assert callback.result.changes and callback.scores["lswag"] > 0


class TestData:
    def test_iterable_dataset(self, pl):
        class Endless(IterableDataset):
            def __iter__(self):
                generator = torch.Generator().manual_seed(0)
                while True:
                    yield torch.randn(1, 8, 8, generator=generator), 3

        callback = LSWAGCallback(samples=16)
        runs, _ = fit(pl, callback, train=DataLoader(Endless(), batch_size=8), max_steps=2)
        assert callback.result.samples == 16 and runs.global_step == 2

    def test_several_loaders_need_a_batch(self, pl):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["a"][0]), batch["a"][1])

        loaders = {"a": loader(), "b": loader()}
        for train in (loaders, part(pl, "utilities").CombinedLoader(loaders)):
            with pytest.raises(InputError, match="is a dict, not one loader: pass batch="):
                fit(pl, LSWAGCallback(), model=lit(pl, training_step=training_step), train=train)
        x, y = data().tensors
        callback = LSWAGCallback(batch=({"a": (x, y), "b": (x, y)}, None))
        fit(pl, callback, model=lit(pl, training_step=training_step), train=loaders)
        assert callback.scores["lswag"] > 0

    def test_data_that_can_be_read_once_are_left_to_training(self, pl):
        class Once(IterableDataset):
            def __init__(self):
                self.left = 8

            def __iter__(self):
                return self

            def __next__(self):
                self.left -= 1
                if self.left < 0:
                    raise StopIteration
                return torch.randn(1, 8, 8), 3

        batches = [tuple(batch) for batch in loader()]
        for train in (DataLoader(Once(), batch_size=2), iter(batches)):
            with pytest.raises(InputError, match=r"only once.*pass batch="):
                fit(pl, LSWAGCallback(), train=train)

    def test_named_batch_takes_the_size_of_the_example(self, pl):
        model = lit(pl)
        model.example_input_array = torch.zeros(1, 1, 8, 8)
        callback = LSWAGCallback(batch="digits", samples=32)
        fit(pl, callback, model=model)
        expected = lh.Batch.builtin("digits", size=(1, 8, 8), samples=32)
        assert callback.result.settings["batch"] == expected.fingerprint
        other = LSWAGCallback(batch="digits", samples=32, size=(1, 8, 8))
        fit(pl, other)
        assert other.scores == pytest.approx(callback.scores)

    def test_a_bad_batch_is_an_error_before_training(self, pl):
        model = lit(pl)
        train = DataLoader(TensorDataset(torch.full((16, 1, 8, 8), torch.nan), torch.arange(16) % 10), batch_size=8)
        with pytest.raises(InputError, match="NaN"):
            fit(pl, LSWAGCallback(), model=model, train=train)
        assert model.steps == 0


class TestTrainingIsUntouched:
    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_bit_for_bit(self, pl, options):
        options = {"max_epochs": 2, **options}
        with_it, model = fit(pl, LSWAGCallback(lh.list_proxies()), **options)
        without, other = fit(pl, **options)
        assert model.losses == other.losses
        assert_same(state(model), state(other))
        metrics = {key: value for key, value in with_it.callback_metrics.items() if not key.startswith("lswag/")}
        assert_same(metrics, without.callback_metrics)
        assert with_it.global_step == without.global_step == model.steps * 1

    @pytest.mark.parametrize("workers", [0, 1])
    def test_loaders_with_a_generator_and_workers(self, pl, workers):
        def own():
            generator = torch.Generator().manual_seed(5)
            return loader(generator=generator, num_workers=workers, persistent_workers=workers > 0)

        _, model = fit(pl, LSWAGCallback(), train=own(), max_epochs=2)
        _, other = fit(pl, train=own(), max_epochs=2)
        assert model.losses == other.losses
        assert_same(state(model), state(other))

    def test_what_training_step_gathers_is_empty_when_training_starts(self, pl):
        lengths = []

        def training_step(self, batch, batch_idx):
            lengths.append(len(self.gathered))
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.gathered.append(loss.detach())
            return loss

        model = lit(pl, training_step=training_step)
        model.gathered = []
        fit(pl, LSWAGCallback(), model=model)
        assert lengths[-6:] == list(range(6))

    def test_a_failing_score_leaves_the_network_as_it_was(self, pl):
        def training_step(self, batch, batch_idx):
            self(batch[0])
            raise RuntimeError("no loss today")

        model = lit(pl, training_step=training_step)
        before = state(model)
        with pytest.raises(RuntimeError, match="no loss today"):
            fit(pl, LSWAGCallback(), model=model)
        assert_same(before, state(model))
        assert all(parameter.grad is None for parameter in model.parameters())


class TestRejection:
    @pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
    def test_stop_takes_no_step(self, pl, limits):
        class Spy(pl.Callback):
            ended = False

            def on_train_start(self, trainer, pl_module):
                self.limits = trainer.fit_loop.min_epochs, trainer.fit_loop.min_steps

            def on_train_batch_start(self, *args):
                raise AssertionError("a batch was trained on")

            def on_train_end(self, trainer, pl_module):
                self.ended = True

        spy, model, callback = Spy(), lit(pl), LSWAGCallback(PROXIES, min_score={"zico": 1e9})
        before = state(model)
        with pytest.warns(UserWarning, match=r"rejected: zico is .*, min_score 1e\+09. fit ends"):
            runs, _ = fit(pl, spy, callback, model=model, **limits)
        assert callback.rejected and spy.ended and model.steps == runs.global_step == 0
        assert_same(before, state(model))
        assert set(callback.scores) == set(PROXIES)
        assert (runs.fit_loop.min_epochs, runs.fit_loop.min_steps) == spy.limits

    def test_two_that_reject_give_the_limits_back(self, pl):
        both = [LSWAGCallback(min_score=1e9, prefix=prefix) for prefix in "ab"]
        with pytest.warns(UserWarning, match="rejected"):
            runs, model = fit(pl, *both, max_epochs=4, min_epochs=2, min_steps=2)
        assert model.steps == 0 and (runs.fit_loop.min_epochs, runs.fit_loop.min_steps) == (2, 2)

    def test_raise(self, pl):
        model, callback = lit(pl), LSWAGCallback(min_score=1e9, on_reject="raise")
        with pytest.raises(CandidateRejected, match="lswag is"):
            fit(pl, callback, model=model)
        assert callback.rejected and model.steps == 0
        assert issubclass(CandidateRejected, lh.LSWAGError)

    def test_warn_goes_on(self, pl):
        callback = LSWAGCallback(min_score=1e9, on_reject="warn")
        with pytest.warns(UserWarning, match="training goes on"):
            _, model = fit(pl, callback)
        assert callback.rejected and model.steps == 6

    def test_a_good_network_trains(self, pl):
        callback = LSWAGCallback(PROXIES, min_score={"lswag": 0.0, "zico": -1})
        _, model = fit(pl, callback)
        assert not callback.rejected and model.steps == 6

    def test_a_score_that_cannot_be_had_is_too_low(self, pl):
        model = lit(pl)
        model.net[2] = nn.Identity()
        callback = LSWAGCallback(PROXIES, min_score=-1e9)
        with pytest.warns(UserWarning, match="lswag is no activation"):
            fit(pl, callback, model=model)
        assert callback.rejected and model.steps == 0

    def test_a_new_run_is_a_new_decision(self, pl):
        callback = LSWAGCallback(min_score=1e9, on_reject="stop")
        with pytest.warns(UserWarning, match="rejected"):
            fit(pl, callback)
        first = callback.result
        callback.min_score = {"lswag": 0.0}
        _, model = fit(pl, callback, model=lit(pl))
        assert not callback.rejected and model.steps == 6
        assert callback.result is not first


class Numbers:
    """Records what a logger gets."""

    def __init__(self, pl):
        class Recorder(part(pl, "loggers.logger").Logger):
            name, version = "recorder", 0
            rows, hparams = [], []

            def log_metrics(self, metrics, step=None):
                self.rows.append((step, dict(metrics)))

            def log_hyperparams(self, params, *args, **kwargs):
                self.hparams.append(params)

        self.logger = Recorder()


class TestLogging:
    def test_every_logger_gets_the_numbers(self, pl, tmp_path):
        recorder = Numbers(pl).logger
        csv = part(pl, "loggers").CSVLogger(tmp_path)
        callback = LSWAGCallback(PROXIES)
        fit(pl, callback, logger=[recorder, csv], log_every_n_steps=1)
        expected = {f"lswag/{key}": value for key, value in callback.scores.items()}
        assert recorder.rows[0] == (0, expected)
        assert sum("lswag/zico" in row for _, row in recorder.rows) == 1
        assert not any("lswag" in str(params) for params in recorder.hparams)
        csv.save()
        header = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0]
        assert {"lswag/lswag", "lswag/zico"} <= set(header.split(","))

    def test_checkpoint_names_may_use_the_score(self, pl, tmp_path):
        saver = part(pl, "callbacks").ModelCheckpoint(
            tmp_path, filename="{epoch}-{early/zico:.2f}", auto_insert_metric_name=False
        )
        callback = LSWAGCallback("zico", prefix="early")
        runs, _ = fit(pl, callback, saver, enable_checkpointing=True)
        assert saver.best_model_path.endswith(f"0-{callback.scores['zico']:.2f}.ckpt")
        assert runs.callback_metrics["early/zico"].item() == pytest.approx(callback.scores["zico"])

    def test_the_numbers_of_a_stopped_run_are_in_callback_metrics(self, pl):
        callback = LSWAGCallback(min_score=1e9)
        with pytest.warns(UserWarning, match="rejected"):
            runs, _ = fit(pl, callback)
        assert runs.callback_metrics["lswag/lswag"].item() == pytest.approx(callback.scores["lswag"])

    @pytest.mark.parametrize(
        "options", [{"fast_dev_run": True}, {"fast_dev_run": 2, "logger": True}, {"barebones": True}]
    )
    def test_no_logger(self, pl, options):
        callback = LSWAGCallback(PROXIES)
        if "barebones" in options:
            options = {**options, **dict.fromkeys(("logger", "enable_checkpointing"), False)}
        fit(pl, callback, **options)
        assert callback.scores["zico"] > 0

    def test_two_callbacks_need_two_prefixes(self, pl):
        callbacks = [LSWAGCallback("zico"), LSWAGCallback("swap", prefix="digits", batch="digits", size=(1, 8, 8))]
        runs, _ = fit(pl, *callbacks)
        assert {"lswag/zico", "digits/swap"} <= runs.callback_metrics.keys()
        with pytest.raises(RuntimeError, match="more than one stateful callback"):
            trainer(pl, LSWAGCallback(), LSWAGCallback())


class TestCheckpoint:
    def test_scores_come_back_and_are_not_computed_again(self, pl, tmp_path, monkeypatch):
        first = LSWAGCallback(PROXIES, samples=16)
        runs, _ = fit(pl, first)
        path = tmp_path / "a.ckpt"
        runs.save_checkpoint(path)
        kept = torch.load(path, weights_only=True)["callbacks"][first.state_key]["result"]
        assert kept["scores"] == first.scores
        json.dumps(kept)

        def never(*args, **kwargs):
            raise AssertionError("scored again")

        monkeypatch.setattr(callbacks, "score", never)
        second, model = LSWAGCallback(PROXIES), lit(pl)
        recorder = Numbers(pl).logger
        fit(pl, second, model=model, ckpt_path=path, max_epochs=2, logger=recorder)
        assert model.steps == 6
        assert second.scores == first.scores
        assert second.result.samples == 16
        assert second.result.profile == first.result.profile
        assert second.result.coverage == first.result.coverage
        assert str(second.result) == str(first.result)
        assert recorder.rows[0] == (6, {f"lswag/{key}": value for key, value in first.scores.items()})

    def test_the_decision_is_made_anew(self, pl, tmp_path):
        runs, _ = fit(pl, LSWAGCallback())
        runs.save_checkpoint(tmp_path / "a.ckpt")
        model, callback = lit(pl), LSWAGCallback(PROXIES, min_score={"lswag": 1e9, "zico": 1e9})
        with pytest.warns(UserWarning, match="have no 'zico'"), pytest.warns(UserWarning, match="lswag is"):
            fit(pl, callback, model=model, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
        assert callback.rejected and model.steps == 0

    def test_a_checkpoint_from_before_the_first_step(self, pl, tmp_path, monkeypatch):
        first = LSWAGCallback(min_score=1e9)
        with pytest.warns(UserWarning, match="rejected"):
            runs, _ = fit(pl, first)
        runs.save_checkpoint(tmp_path / "a.ckpt")
        monkeypatch.setattr(callbacks, "score", None)
        second = LSWAGCallback()
        fit(pl, second, ckpt_path=tmp_path / "a.ckpt")
        assert second.scores == first.scores

    def test_a_trained_network_is_not_scored(self, pl, tmp_path):
        runs, _ = fit(pl)
        runs.save_checkpoint(tmp_path / "a.ckpt")
        callback, model = LSWAGCallback(min_score=1e9), lit(pl)
        with pytest.warns(UserWarning, match="trained for 6 steps and the checkpoint holds no scores"):
            fit(pl, callback, model=model, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
        assert callback.result is None and not callback.rejected and model.steps == 6

    def test_scores_of_another_network_are_forgotten(self, pl, tmp_path):
        runs, _ = fit(pl)
        runs.save_checkpoint(tmp_path / "without.ckpt")
        callback = LSWAGCallback()
        runs, _ = fit(pl, callback)
        runs.save_checkpoint(tmp_path / "with.ckpt")
        first = callback.result
        # Lightning restores callbacks for an evaluation too: the fit that follows is a new one all the same
        trainer(pl, callback).validate(lit(pl, validation_step=lambda *_: None), loader(), tmp_path / "with.ckpt")
        other = lit(pl)
        nn.init.normal_(other.net[0].weight)
        fit(pl, callback, model=other)
        assert callback.scores != first.scores
        with pytest.warns(UserWarning, match="holds no scores"):
            fit(pl, callback, ckpt_path=tmp_path / "without.ckpt", max_epochs=2)
        assert callback.result is None

    def test_a_second_fit_keeps_the_scores(self, pl):
        callback = LSWAGCallback()
        runs, model = fit(pl, callback)
        first = callback.result
        runs.fit_loop.max_epochs = 2
        runs.fit(model, loader())
        assert callback.result is first and model.steps == 12

    def test_a_score_that_cannot_be_had_survives(self):
        callback = LSWAGCallback(PROXIES)
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
        callback.result = lh.score(net, (torch.randn(8, 4), torch.arange(8) % 3), PROXIES)
        other = LSWAGCallback(PROXIES)
        other.load_state_dict(callback.state_dict())
        assert other.result["lswag"] != other.result["lswag"]
        assert other.result.reasons == callback.result.reasons

    def test_a_state_of_another_version_loads(self):
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
        callback = LSWAGCallback()
        callback.result = lh.score(net, (torch.randn(8, 4), torch.arange(8) % 3))
        kept = callback.state_dict()
        for level in (kept["result"], kept["result"]["coverage"], kept["result"]["profile"]["weights"][0]):
            level["invented later"] = 1
        other = LSWAGCallback()
        other.load_state_dict(kept)
        assert other.scores == callback.scores


class TestCommandLine:
    def test_yaml(self, pl, tmp_path):
        class Data(pl.LightningDataModule):
            def train_dataloader(self):
                return loader()

        config = tmp_path / "config.yaml"
        config.write_text(
            textwrap.dedent(
                f"""
                trainer:
                  max_epochs: 1
                  accelerator: cpu
                  default_root_dir: {tmp_path}
                  enable_checkpointing: false
                  enable_progress_bar: false
                  enable_model_summary: false
                  logger:
                    class_path: {pl.__name__}.loggers.CSVLogger
                    init_args: {{save_dir: {tmp_path}}}
                  callbacks:
                  - class_path: lswag_hooks.LSWAGCallback
                    init_args:
                      proxies: [lswag, zico]
                      samples: 32
                      batch: digits
                      size: [1, 8, 8]
                      interval: [0, 9]
                      min_score: {{zico: 1.0}}
                      on_reject: raise
                  - class_path: lswag_hooks.LSWAGCallback
                    init_args:
                      proxies: swap
                      loss: torch.nn.functional.cross_entropy
                      min_score: 1
                      max_memory: 1GB
                      prefix: second
                """
            )
        )
        kind = type(lit(pl))
        cli = part(pl, "cli").LightningCLI(kind, Data, args=["fit", "--config", str(config)])
        first, second = (each for each in cli.trainer.callbacks if isinstance(each, LSWAGCallback))
        assert set(first.scores) == set(PROXIES) and first.interval == (0, 9) and first.min_score == {"zico": 1.0}
        assert second.loss is F.cross_entropy and second.min_score == {"swap": 1.0} and second.scores["swap"] > 1

    def test_arguments(self, pl):
        class Data(pl.LightningDataModule):
            def train_dataloader(self):
                return loader()

        args = ["fit", "--trainer.callbacks=lswag_hooks.LSWAGCallback", "--trainer.callbacks.proxies=zico"]
        args += ["--trainer.callbacks.loss=training_step", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
        cli = part(pl, "cli").LightningCLI(type(lit(pl)), Data, args=args, save_config_callback=None)
        callback = next(each for each in cli.trainer.callbacks if isinstance(each, LSWAGCallback))
        assert callback.loss == "training_step" and callback.scores["zico"] > 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"proxies": "zicco"}, "Did you mean 'zico'"),
            ({"samples": 1}, "samples=1: ask for two or more"),
            ({"interval": (3, 12)}, "interval="),
            ({"mode": "sorce"}, "mode='sorce' is unknown. Did you mean 'score'"),
            ({"on_reject": "halt"}, "on_reject='halt' is unknown.* stop, raise, warn"),
            ({"min_score": {"zico": 1.0}}, r"'zico', which is not among the proxies \['lswag'\]"),
            ({"min_score": "high"}, "min_score='high' for 'lswag': give a number"),
            ({"min_score": float("nan")}, "give a number"),
            ({"seed": -1}, "seed=-1"),
            ({"batch": 64}, r"a Batch or a pair \(inputs, targets\), got int"),
        ],
    )
    def test_arguments(self, options, message):
        with pytest.raises(InputError, match=message):
            LSWAGCallback(**options)

    def test_a_proxy_that_is_better_when_lower(self):
        class Lower(lh.ZiCo):
            higher_is_better = False

        with pytest.raises(InputError, match="lower is better"):
            LSWAGCallback(Lower(), min_score=1.0)

    def test_sharded_strategies(self, pl):
        strategies = part(pl, "strategies")
        deepspeed = object.__new__(strategies.DeepSpeedStrategy)
        for stage in (2, 3):
            deepspeed.config = {"zero_optimization": {"stage": stage}}
            fake = types.SimpleNamespace(global_step=0, strategy=deepspeed)
            if stage == 2:
                LSWAGCallback().setup(fake, None, "fit")
                continue
            with pytest.raises(UnsupportedError, match="DeepSpeedStrategy keeps only a shard"):
                LSWAGCallback().setup(fake, None, "fit")
        for name in ("FSDPStrategy", "ModelParallelStrategy"):
            fake = types.SimpleNamespace(global_step=0, strategy=object.__new__(getattr(strategies, name)))
            with pytest.raises(UnsupportedError, match=f"{name} keeps only a shard"):
                LSWAGCallback().setup(fake, None, "fit")
            LSWAGCallback().setup(fake, None, "test")

    def test_one_package_is_enough_and_none_is_an_error(self, monkeypatch):
        present = importlib.import_module("lightning.pytorch")

        def one(name):
            if name == "lightning.pytorch":
                return present
            raise AttributeError("an old release on a new torch")

        def none(name):
            raise ModuleNotFoundError(name)

        monkeypatch.setattr(callbacks.importlib, "import_module", one)
        assert callbacks._callback_classes() == (present.Callback,)
        monkeypatch.setattr(callbacks.importlib, "import_module", none)
        with pytest.raises(ImportError, match="pip install lightning"):
            callbacks._callback_classes()


DISTRIBUTED = """
import importlib, json, sys
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lswag_hooks as lh

assert "lightning" not in sys.modules and "pytorch_lightning" not in sys.modules  # importing the package is cheap
package, folder = sys.argv[1:]
pl = importlib.import_module(package)
torch.set_num_threads(1)
PROXIES = ["lswag", "zico", "nwot", "swap"]


class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Bad(lh.LSWAGCallback):
    def _batch(self, trainer):
        if trainer.global_rank == 1:
            raise lh.InputError("bad data in one process")
        return super()._batch(trainer)


def fit(*callbacks):
    pl.seed_everything(1, verbose=False)
    model = Lit()
    images = TensorDataset(torch.randn(64, 1, 8, 8), torch.randint(10, (64,)))
    silent = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(
        max_epochs=1, min_epochs=1, accelerator="cpu", devices=2, strategy="ddp", callbacks=list(callbacks), **silent
    )
    result = {"error": None, "before": float(sum(p.double().sum() for p in model.parameters()))}
    try:
        trainer.fit(model, DataLoader(images, batch_size=8, shuffle=True))
    except lh.LSWAGError as error:
        result["error"] = f"{type(error).__name__}: {error}"
    result["after"] = float(sum(p.double().sum() for p in model.parameters()))
    for callback in callbacks:
        result.update(scores=callback.scores, rejected=callback.rejected, steps=trainer.global_step)
    return trainer.global_rank, result


pl.seed_everything(1, verbose=False)
digits = lh.Batch.builtin("digits", size=(1, 8, 8), samples=50)
runs = {"single": {"scores": dict(lh.score(Lit().net, digits, PROXIES))}}
rank, runs["batch"] = fit(lh.LSWAGCallback(PROXIES, batch="digits", size=(1, 8, 8), samples=50))
_, runs["loader"] = fit(lh.LSWAGCallback(PROXIES, samples=32))
_, runs["without"] = fit()
_, runs["stop"] = fit(lh.LSWAGCallback(PROXIES, samples=32, min_score=1e9))
_, runs["bad"] = fit(Bad(PROXIES))
_, runs["raise"] = fit(lh.LSWAGCallback(PROXIES, samples=32, min_score=1e9, on_reject="raise"))
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(runs, file)
torch.distributed.destroy_process_group()  # as Lightning does on GPUs alone
"""


@pytest.mark.slow
def test_processes_agree(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DISTRIBUTED)
    root = os.path.dirname(os.path.dirname(lh.__file__))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), "lightning.pytorch", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert "another process" in zero["bad"].pop("error") and "bad data in one process" in one["bad"].pop("error")
    assert zero == one and zero["bad"]["before"] == zero["bad"]["after"]
    assert zero["batch"]["scores"] == pytest.approx(zero["single"]["scores"], rel=1e-5)
    assert zero["loader"]["steps"] == 4 and zero["loader"]["after"] == zero["without"]["after"]
    assert zero["stop"]["rejected"] and zero["stop"]["steps"] == 0
    assert zero["stop"]["before"] == zero["stop"]["after"]
    assert zero["raise"]["error"].startswith("CandidateRejected: the network is rejected: lswag is")
