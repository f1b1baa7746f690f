"""Detectors from MMDetection's config files, without a download."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from lswag_hooks.detection.coco import SCALE
from lswag_hooks.detection.compat import prepare
from lswag_hooks.errors import InputError


def load_config(path: str | Path) -> Any:
    """Read a config file of MMDetection.

    Raises:
        InputError: there is no such file, it cannot be read, or it describes no model.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there is no config {file}: give the path of one of MMDetection's config files.")
    prepare()
    from mmengine.config import Config

    try:
        config = Config.fromfile(file)
    except Exception as error:  # a config is a program, and may fail in any way
        raise InputError(f"{file} cannot be read as a config: {' '.join(str(error).split())[:300]}") from error
    if "model" not in config or "type" not in config.model:
        raise InputError(f"{file} describes no model: it needs model = dict(type=..., ...).")
    return config


def picture_scale(config: Any) -> tuple[int, int]:
    """Longest and shortest side of the pictures that a config trains on; COCO's usual ones where it does not say."""
    found = _resize(config.get("train_dataloader", {})) or _resize(config.get("train_pipeline", [])) or SCALE
    return max(found), min(found)


def _resize(part: Any) -> tuple[int, int] | None:
    if isinstance(part, dict):
        scale = part.get("scale")
        if part.get("type") in ("Resize", "RandomResize") and scale:
            last = scale[-1] if isinstance(scale[0], (list, tuple)) else scale
            return int(last[0]), int(last[1])
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        return next((found for value in part if (found := _resize(value)) is not None), None)
    return None


def build_detector(path: str | Path, num_classes: int | None = None) -> nn.Module:
    """Build the detector of a config, its weights drawn from the global random state; nothing is downloaded.

    Args:
        path: of the config.
        num_classes: of all heads; by default the config's.

    Raises:
        InputError: as for :func:`load_config`, or the model cannot be built.
    """
    return _built(path, load_config(path).model, num_classes)


def build_backbone(path: str | Path) -> nn.Module:
    """Build the backbone of a detector's config alone, its weights drawn from the global random state."""
    model = load_config(path).model
    if "backbone" not in model:
        raise InputError(f"{path}: its model, a {model.type}, has no backbone.")
    return _built(path, model.backbone, None)


def _built(path: str | Path, description: Any, num_classes: int | None) -> nn.Module:
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    plain = ConfigDict(without_weights(description.to_dict(), num_classes))
    try:
        with DefaultScope.overwrite_default_scope("mmdet"), quiet():
            model: Any = MODELS.build(plain)
            if hasattr(model, "init_weights"):
                model.init_weights()
    except Exception as error:  # whatever a config leads to
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: the model cannot be built: {said[:300]}") from error
    return model  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep mmengine from telling of every single weight that it draws."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def without_weights(description: Any, num_classes: int | None = None) -> Any:
    """A model's description without what would load pretrained weights.

    Example:
        >>> without_weights({"type": "ResNet", "init_cfg": {"type": "Pretrained", "checkpoint": "http://..."}})
        {'type': 'ResNet', 'init_cfg': None}
    """
    if isinstance(description, (list, tuple)):
        return type(description)(without_weights(value, num_classes) for value in description)
    if not isinstance(description, dict):
        return description
    made = {key: without_weights(value, num_classes) for key, value in description.items()}
    if isinstance(made.get("init_cfg"), dict) and made["init_cfg"].get("type") == "Pretrained":
        made["init_cfg"] = None
    if num_classes is not None and "num_classes" in made:
        made["num_classes"] = num_classes
    return made
