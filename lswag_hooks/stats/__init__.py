"""Streaming, mergeable statistics. Nothing here sees an ``nn.Module``."""

from lswag_hooks.stats.moments import GradientMoments, Moments, merge_moments, moments_of
from lswag_hooks.stats.patterns import ActivationPatterns, agreement, count_distinct, pack, unpack

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
