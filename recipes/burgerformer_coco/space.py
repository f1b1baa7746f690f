"""BurgerFormer as backbones of a detector, and what a candidate's name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import yaml
from torch import nn

from lswag_hooks import Batch
from lswag_hooks.detection.objectives import check_pictures
from lswag_hooks.detection.pyramid import Backbone, PyramidObjective, build_backbone, build_pyramid
from lswag_hooks.errors import InputError
from lswag_hooks.spaces import Cost
from lswag_hooks.spaces.burgerformer import NAMED, BurgerFormer

LIMIT = 30_000_000  # of the paper's search
CLASSES, SIDE = 1000, 224  # that parameters are counted for: ImageNet, as published
PREFIX = "burgerformer/"


class BurgerBackbones(BurgerFormer):
    """The architectures of BurgerFormer that take pictures of any size, each with a feature pyramid on it.

    Scored on the loss of a region proposal network; parameters are those of the classifier for ImageNet, which is what
    the published limit is about.
    """

    name = "burgerformer_backbones"
    summary = "BurgerFormer's architectures as backbones of a detector"
    tasks: ClassVar[dict[str, int]] = {"coco": 80}
    image_shapes: ClassVar[dict[str, tuple[int, ...]]] = {"coco": (3, 800, 1344)}

    def __init__(self) -> None:
        super().__init__(spatial_mlp=False)

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """Backbone and pyramid."""
        return build_pyramid(f"{PREFIX}{architecture}", seed=None)

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """Cost of the classifier."""
        return super().counted(architecture, CLASSES, "imagenet", (3, SIDE, SIDE))

    def objective(self, task: str | None = None) -> Any:
        """Loss of a region proposal network."""
        self.check_task(task)
        return PyramidObjective()

    def batch(self, images: Batch, task: str | None = None, seed: int = 0) -> Batch:
        """Pictures with boxes, as they are."""
        check_pictures(images)
        return super().batch(images, task, seed)


def resolve_backbone(name: str) -> str:
    """The spec of a backbone: as given, or the best of the YAML file that a search wrote.

    Raises:
        InputError: the file is not there, or is of another space.
    """
    if not name.endswith((".yaml", ".yml")):
        return PREFIX + name if name in NAMED else name
    file = Path(name).expanduser()
    if not file.is_file():
        raise InputError(f"backbone={name}: there is no such file; the search writes it.")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    best = content.get("architectures") if isinstance(content, dict) else None
    if not best or not str(content.get("space", "")).startswith("burgerformer"):
        raise InputError(f"backbone={name} holds no architectures of BurgerFormer: give what the search wrote.")
    return PREFIX + str(best[0]["architecture"])


def checked_backbone(name: str, max_params: int | None = LIMIT) -> tuple[str, Backbone]:
    """Spec and network of a backbone that can serve and keeps the limit.

    Args:
        name: as for :func:`resolve_backbone`.
        max_params: most parameters; of the classifier for a BurgerFormer, of the backbone for any other.

    Raises:
        InputError: it cannot serve, or is larger.
    """
    spec = resolve_backbone(name)
    backbone = build_backbone(spec)
    params = sum(parameter.numel() for parameter in backbone.parameters())
    if spec.startswith(PREFIX):
        architecture = spec.removeprefix(PREFIX)
        params = BurgerBackbones().cost(NAMED.get(architecture, architecture)).params
    if max_params is not None and params > max_params:
        raise InputError(
            f"backbone={name} has {params:,} parameters, more than max_params={max_params:,}: choose a smaller one, or "
            "raise the limit (max_params=null: none)."
        )
    return spec, backbone
