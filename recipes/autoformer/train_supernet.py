"""Train a supernet: ``python -m recipes.autoformer.train_supernet --help``."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.autoformer.train import train
from recipes.autoformer.training import SupernetTraining
from recipes.common import finish


def main(args: Sequence[str] | None = None) -> int:
    """Train with ``configs/train_supernet.yaml`` for defaults; returns the exit status."""
    return train(SupernetTraining, "train_supernet.yaml", args)


if __name__ == "__main__":
    finish(main)
