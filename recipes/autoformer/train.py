"""The command that trains; ``train_supernet``, ``finetune`` and ``retrain`` are this with a model each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.autoformer.training import Training
from recipes.common import RecipeCLI

CONFIGS = Path(__file__).parent / "configs"


def train(model: Callable[..., Training], config: str, args: Sequence[str] | None = None) -> int:
    """Train, or go on training.

    Args:
        model: what to train.
        config: name of a file in ``configs``, of defaults.
        args: instead of the command line's.

    Returns:
        The exit status: 0; 130 after Ctrl-C; 1 where the pre-filter rejected the network.
    """
    return RecipeCLI(model, CONFIGS / config, None if args is None else list(args)).fit()
