"""Attach, capture, restore: the only rooms that touch a user's module."""

from lswag_hooks.hooks.activations import register_activation
from lswag_hooks.hooks.managers import ActivationHooks, GradientHooks
from lswag_hooks.hooks.session import ProbeSession

__all__ = ["ActivationHooks", "GradientHooks", "ProbeSession", "register_activation"]
