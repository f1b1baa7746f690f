"""Train a DARTS network on CIFAR-10: ``python -m recipes.darts.train_cifar10 --help``."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.common import finish
from recipes.darts.train import train


def main(args: Sequence[str] | None = None) -> int:
    """Train with ``configs/train_cifar10.yaml`` for defaults; returns the exit status."""
    return train("train_cifar10.yaml", args)


if __name__ == "__main__":
    finish(main)
