"""Say how good a network will be before it is trained: L-SWAG, LIBRA and other zero-cost proxies for PyTorch."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from lswag_hooks.agreement import Agreement
from lswag_hooks.batch import Batch
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.correlating import correlate
from lswag_hooks.ensembles import Libra, LibraChecked, list_fitted, merge_ranks
from lswag_hooks.errors import InputError, LSWAGError, UnsupportedError
from lswag_hooks.hooks.activations import register_activation
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.models import build
from lswag_hooks.profile import LayerProfile
from lswag_hooks.proxies import LSWAG, LSWAGRobust, RegSwap, ZiCo, list_proxies, register_proxy
from lswag_hooks.ranking import Ranking, prefilter, rank
from lswag_hooks.results import ScoreResult
from lswag_hooks.scoring import score
from lswag_hooks.search import Evolution, Latency, OptunaSearch, Pruning, RandomSearch, SearchResult, search
from lswag_hooks.spaces import Space, get_space, list_spaces
from lswag_hooks.trust import Trust, trust

if TYPE_CHECKING:
    from lswag_hooks.callbacks import CandidateRejected, LSWAGCallback

try:
    __version__ = version("lswag-hooks")
except PackageNotFoundError:  # read from a folder that was never installed
    __version__ = "0.1.dev0"

__all__ = [
    "LSWAG",
    "Agreement",
    "Batch",
    "Benchmark",
    "CandidateRejected",
    "Evolution",
    "InputError",
    "LSWAGCallback",
    "LSWAGError",
    "LSWAGRobust",
    "Latency",
    "LayerProfile",
    "Libra",
    "LibraChecked",
    "OptunaSearch",
    "ProbeSession",
    "Pruning",
    "RandomSearch",
    "Ranking",
    "RegSwap",
    "ScoreResult",
    "SearchResult",
    "Space",
    "Trust",
    "UnsupportedError",
    "ZiCo",
    "__version__",
    "build",
    "correlate",
    "get_space",
    "list_fitted",
    "list_proxies",
    "list_spaces",
    "merge_ranks",
    "prefilter",
    "rank",
    "register_activation",
    "register_proxy",
    "score",
    "search",
    "trust",
]


def __getattr__(name: str) -> Any:
    # Lightning is imported only where it is asked for
    if name in ("CandidateRejected", "LSWAGCallback"):
        from lswag_hooks import callbacks

        return getattr(callbacks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
