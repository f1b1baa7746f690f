"""A network of a search space, trained and scored as a YAML file says.

python examples/lightning_cli/main.py fit --config examples/lightning_cli/config.yaml
"""

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import ArgsType, LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lswag_hooks as lh
from lswag_hooks.spaces import Space


class Network(L.LightningModule):
    """An architecture of a search space.

    Args:
        space: the class of the space; its own options are ``init_args`` in YAML.
        architecture: as published; None: one drawn with ``seed``.
        num_classes: outputs.
        image_size: channels, height and width.
        seed: of the weights, and of the draw.
        lr: learning rate.
    """

    def __init__(
        self,
        space: Space,
        architecture: str | None = None,
        num_classes: int = 10,
        image_size: tuple[int, int, int] = (3, 8, 8),
        seed: int = 0,
        lr: float = 0.05,
    ) -> None:
        super().__init__()
        self.architecture = space.sample(rng=seed) if architecture is None else architecture
        self.net = space.build(self.architecture, num_classes=num_classes, image_size=image_size, seed=seed)
        self.lr = lr

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


class Digits(L.LightningDataModule):
    """Handwritten digits.

    Args:
        size: channels, height and width.
        samples: how many.
        batch_size: of a step.
    """

    def __init__(self, size: tuple[int, int, int] = (3, 8, 8), samples: int = 64, batch_size: int = 16) -> None:
        super().__init__()
        self.digits = lh.Batch.builtin("digits", size=size, samples=samples)
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        """Of all samples."""
        return DataLoader(TensorDataset(self.digits.inputs, self.digits.targets), self.batch_size, shuffle=True)


def main(args: ArgsType = None) -> LightningCLI:
    """Do what the command line says."""
    cli = LightningCLI(Network, Digits, save_config_callback=None, seed_everything_default=0, args=args)
    for callback in cli.trainer.callbacks:
        if isinstance(callback, lh.LSWAGCallback) and callback.result is not None:
            print(cli.model.architecture)
            print(callback.result)
            print("rejected" if callback.rejected else f"trained for {cli.trainer.global_step} steps")
    return cli


if __name__ == "__main__":
    main()
