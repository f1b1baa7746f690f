"""Train the classifier for its weights: ``python -m recipes.burgerformer_coco.pretrain --help``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lswag_hooks.spaces.burgerformer import NAMED, BurgerFormer
from recipes.autoformer.training import Schedule, Training
from recipes.burgerformer_coco.space import LIMIT, PREFIX, checked_backbone
from recipes.common import RecipeCLI, finish

CONFIG = Path(__file__).parent / "configs" / "pretrain.yaml"
PUBLISHED = Schedule(lr=1e-3, lr_batch=1024, weight_decay=0.05, warmup_epochs=5, min_lr=1e-6)


class BurgerTraining(Training):
    """Train a BurgerFormer as a classifier, with its own published schedule.

    Args:
        architecture: of the space, the name of a published one, or the YAML file of a search, whose best is taken.
        num_classes: number of outputs; LightningCLI takes it from the data.
        drop_path: of the last block; it grows linearly from 0 at the first.
        max_params: most parameters.
        schedule: how to train.
        seed: of mixing and stochastic depth.

    Raises:
        InputError: the architecture does not parse, cannot serve as a backbone, or is too large.
    """

    def __init__(
        self,
        architecture: str,
        num_classes: int = 1000,
        drop_path: float = 0.2,
        max_params: int | None = LIMIT,
        schedule: Schedule = PUBLISHED,
        seed: int = 0,
    ) -> None:
        given = architecture if architecture.endswith((".yaml", ".yml")) else PREFIX + architecture
        spec, _ = checked_backbone(given.replace(PREFIX * 2, PREFIX), max_params)
        architecture = NAMED.get(spec.removeprefix(PREFIX), spec.removeprefix(PREFIX))
        network = BurgerFormer(spatial_mlp=False).network(architecture, num_classes=num_classes, drop_path=drop_path)
        described = {"kind": "burgerformer", "architecture": architecture, "num_classes": num_classes}
        super().__init__(network, described, {"drop_path": drop_path}, schedule, seed)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.network(images)  # type: ignore[no-any-return]


def main(args: Sequence[str] | None = None) -> int:
    """Train with ``configs/pretrain.yaml`` for defaults; returns the exit status."""
    return RecipeCLI(BurgerTraining, CONFIG, None if args is None else list(args)).fit()


if __name__ == "__main__":
    finish(main)
