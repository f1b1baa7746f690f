"""Fine-tune a supernet, or one network: ``python -m recipes.autoformer.finetune --help``."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.autoformer.train import train
from recipes.autoformer.training import finetuning
from recipes.common import finish


def main(args: Sequence[str] | None = None) -> int:
    """Train with ``configs/finetune.yaml`` for defaults; returns the exit status."""
    return train(finetuning, "finetune.yaml", args)


if __name__ == "__main__":
    finish(main)
