"""Streaming, mergeable statistics. Nothing here sees an ``nn.Module``."""

from typing import TYPE_CHECKING, Any

from lswag_hooks.stats.moments import Moments, merge_moments, moments_of
from lswag_hooks.stats.patterns import agreement, count_distinct, pack, unpack

if TYPE_CHECKING:
    from lswag_hooks.stats.metrics import ActivationPatterns, GradientMoments

__all__ = [
    "ActivationPatterns",
    "GradientMoments",
    "Moments",
    "agreement",
    "count_distinct",
    "merge_moments",
    "moments_of",
    "pack",
    "unpack",
]


def __getattr__(name: str) -> Any:
    # torchmetrics is imported only where it is asked for
    if name in ("ActivationPatterns", "GradientMoments"):
        from lswag_hooks.stats import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
