"""Where candidates are scored: in this process, or in worker processes of this machine."""

from lswag_hooks.engines.local import Failure, run

__all__ = ["Failure", "run"]
