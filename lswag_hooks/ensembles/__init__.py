"""Several proxies into one ranking: LIBRA, the rules of AZ-NAS and TE-NAS, and what they are compared with."""

from lswag_hooks.ensembles.aggregation import merge_ranks
from lswag_hooks.ensembles.checked import LibraChecked
from lswag_hooks.ensembles.fitted import list_fitted
from lswag_hooks.ensembles.libra import Libra

__all__ = ["Libra", "LibraChecked", "list_fitted", "merge_ranks"]
