"""Optuna tunes a small network for digits; what scores low at initialisation is pruned without a training step."""

import optuna
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.integrations import OptunaGate

data = lh.Batch.builtin("digits", size=(1, 8, 8), samples=512)
train, test = data[:384], data[384:]
# the number of weight layers differs here, so that size alone would decide much: compare with proxy="params"
gate = OptunaGate(train[:32], proxy="lswag", quantile=0.5, warmup=4, options={"seed": 0})


def network(trial: optuna.Trial) -> nn.Sequential:
    """A few convolutions of a suggested width."""
    layers: list[nn.Module] = []
    channels = 1
    for _ in range(trial.suggest_int("depth", 1, 3)):
        width = trial.suggest_int("width", 2, 32, log=True)
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def objective(trial: optuna.Trial) -> float:
    """Accuracy after a short training, for those that the gate lets through."""
    torch.manual_seed(0)
    model = network(trial)
    gate(trial, model)  # raises optuna.TrialPruned
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(5):
        for images, labels in zip(train.inputs.split(64), train.targets.split(64), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(test.inputs).argmax(1) == test.targets).float().mean())


def main() -> optuna.Study:
    """Twelve trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=12)
    for trial in study.trials:
        outcome = "pruned" if trial.value is None else f"accuracy {trial.value:.2f}"
        print(f"{trial.number:3} {trial.params}  score {trial.user_attrs['score lswag']:.3g}  {outcome}")
    states = [trial.state for trial in study.trials]
    print(f"trained {states.count(optuna.trial.TrialState.COMPLETE)} of {len(states)}, best {study.best_value:.2f}")
    return study


if __name__ == "__main__":
    main()
