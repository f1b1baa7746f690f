"""Say how good a network will be before it is trained: L-SWAG, LIBRA and other zero-cost proxies for PyTorch."""

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError, LSWAGError, UnsupportedError
from lswag_hooks.hooks.activations import register_activation
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.models import build
from lswag_hooks.profile import LayerProfile
from lswag_hooks.proxies import LSWAG, RegSwap, ZiCo, list_proxies, register_proxy
from lswag_hooks.scoring import ScoreResult, score

__version__ = "0.1.0"

__all__ = [
    "LSWAG",
    "Batch",
    "InputError",
    "LSWAGError",
    "LayerProfile",
    "ProbeSession",
    "RegSwap",
    "ScoreResult",
    "UnsupportedError",
    "ZiCo",
    "__version__",
    "build",
    "list_proxies",
    "register_activation",
    "register_proxy",
    "score",
]
