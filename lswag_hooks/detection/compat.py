"""MMDetection without a compile step: its imports, and checkpoints that are read with ``weights_only``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from lswag_hooks.detection.mmcv_ops import Extension
from lswag_hooks.errors import InputError, UnsupportedError

INSTALL = "pip install 'lswag-hooks[detection]'"
EXTENSION = "mmcv._ext"
BACKBONE = "LSWAGBackbone"  # among mmdet's models


def prepare() -> None:
    """Make mmdet importable, and register its modules; cheap when called again.

    Where mmcv is not compiled, :mod:`lswag_hooks.detection.mmcv_ops` takes the place of its extension, which must
    happen before any part of mmdet is imported.

    Raises:
        InputError: mmdet, mmengine or mmcv is missing.
        UnsupportedError: mmcv.ops was tried before, and failed.
    """
    for name in ("mmengine", "mmcv", "mmdet"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed: {INSTALL}.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # mmengine asks for it
        importlib.import_module("mmengine")
        _stand_in()
        from mmdet.registry import MODELS
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    if BACKBONE not in MODELS.module_dict:
        MODELS.register_module(name=BACKBONE, module=backbone_of_config)


def backbone_of_config(spec: str, norms: bool | None = None, checkpoint: str | None = None, **_: Any) -> Any:
    """What ``backbone=dict(type="LSWAGBackbone", spec="burgerformer/...")`` in a config builds.

    Args:
        spec: as for :func:`lswag_hooks.detection.pyramid.build_backbone`.
        norms: as for that.
        checkpoint: pretrained weights, as for :func:`lswag_hooks.detection.pretrained.load_pretrained`.
    """
    from lswag_hooks.detection.pretrained import load_pretrained
    from lswag_hooks.detection.pyramid import build_backbone

    backbone = build_backbone(spec, seed=None, norms=norms)
    if checkpoint is not None:
        load_pretrained(backbone, checkpoint)
    return backbone


def is_compiled() -> bool:
    """Whether a compiled mmcv is installed."""
    loaded = sys.modules.get(EXTENSION)
    if isinstance(loaded, Extension):
        return False
    return loaded is not None or importlib.util.find_spec(EXTENSION) is not None


def _stand_in() -> None:
    if isinstance(sys.modules.get(EXTENSION), Extension) or is_compiled():
        return
    if "mmcv.ops" in sys.modules:
        raise UnsupportedError(
            "mmcv.ops was tried before its operations were there: call lswag_hooks.detection.compat.prepare() first."
        )
    sys.modules[EXTENSION] = Extension(EXTENSION)


def _statistic(owner: Any, name: str) -> Any:
    """The one use that mmengine's checkpoints have for ``getattr``: a method of its HistoryBuffer.

    The real ``getattr`` would let a crafted file reach into whatever an allowed class leads to.
    """
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise UnsupportedError(f"the checkpoint asks for {name!r} of {owner!r}: it is none of mmengine's own.")
    return getattr(HistoryBuffer, name)


@contextlib.contextmanager
def readable_checkpoints() -> Iterator[None]:
    """Let ``torch.load`` with ``weights_only=True``, its default, read what mmengine puts into its checkpoints.

    Beside tensors these are the histories of the losses, as NumPy arrays. Nothing else becomes readable, and nothing
    after the block.
    """
    import numpy as np
    from mmengine.logging import HistoryBuffer

    core = np.core if not hasattr(np, "_core") else np._core
    allowed: list[Any] = [
        HistoryBuffer,
        (core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
        (core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        (core.multiarray.scalar, "numpy._core.multiarray.scalar"),
        (core.multiarray.scalar, "numpy.core.multiarray.scalar"),
        np.ndarray,
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Int64DType,
        (_statistic, "builtins.getattr"),
        (_statistic, "__builtin__.getattr"),  # protocol 2 has the name of Python 2
    ]
    with torch.serialization.safe_globals(allowed):
        yield
