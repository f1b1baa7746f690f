"""Train one network from scratch: ``python -m recipes.autoformer.retrain --help``."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.autoformer.train import train
from recipes.autoformer.training import SubnetTraining
from recipes.common import finish


def main(args: Sequence[str] | None = None) -> int:
    """Train with ``configs/retrain.yaml`` for defaults; returns the exit status."""
    return train(SubnetTraining, "retrain.yaml", args)


if __name__ == "__main__":
    finish(main)
