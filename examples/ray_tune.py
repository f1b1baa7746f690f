"""Ray Tune over the width of a network; what scores below most of a few drawn at random is not trained."""

import statistics
import tempfile
from typing import Any

import torch
from torch import nn

import lswag_hooks as lh

WIDTHS = (2, 8, 32, 64)


def network(width: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def digits(samples: int) -> lh.Batch:
    """Digits of 8 x 8 pixels."""
    return lh.Batch.builtin("digits", size=(1, 8, 8), samples=samples)


def floor() -> float:
    """The median score of all widths, known before any training."""
    return statistics.median(
        lh.score(lh.build(lambda width=width: network(width)), digits(32))["lswag"] for width in WIDTHS
    )


def train(config: dict[str, Any]) -> None:
    """A trial: score, and go on only from the floor up."""
    from ray import tune

    model = lh.build(lambda: network(config["width"]))
    score = lh.score(model, digits(32))["lswag"]
    if score < config["floor"]:
        tune.report({"score": score, "accuracy": 0.0, "trained": False})
        return
    data = digits(512)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs[:384]), data.targets[:384]).backward()
        optimizer.step()
    with torch.no_grad():
        right = model(data.inputs[384:]).argmax(1) == data.targets[384:]
    tune.report({"score": score, "accuracy": float(right.float().mean()), "trained": True})


def main() -> Any:
    """Four trials on one processor of this machine."""
    try:
        import ray
        from ray import tune
    except ImportError as error:
        print(f"skipped: this example needs Ray Tune ({error}): pip install 'lswag-hooks[tune]'")
        return None
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        space = {"width": tune.grid_search(list(WIDTHS)), "floor": floor()}
        folder = tempfile.mkdtemp()  # by default it is ~/ray_results
        tuner = tune.Tuner(
            train,
            param_space=space,
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
        for one in sorted(results, key=lambda one: one.config["width"]):
            outcome = f"accuracy {one.metrics['accuracy']:.2f}" if one.metrics["trained"] else "not trained"
            print(f"width {one.config['width']:3}  score {one.metrics['score']:10.4g}  {outcome}")
        return results
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
