"""``lswag proxies`` and ``lswag spaces``: what there is."""

from __future__ import annotations

from jsonargparse import Namespace

from lswag_hooks.commands.common import check_paths, listing
from lswag_hooks.measured import measured
from lswag_hooks.proxies import list_proxies, proxy_class
from lswag_hooks.report.table import console
from lswag_hooks.spaces import get_space, list_spaces

SHOWN = ("nb201", "autoformer", "timm")  # of the measured benchmarks: there is no room for more


def run_proxies(options: Namespace) -> int:
    """List the proxies."""
    check_paths(options)
    whole = options.json is not None or options.csv is not None
    rows = []
    for name in list_proxies():
        proxy = proxy_class(name)
        row = {"name": name, "summary": proxy.summary, "needs": ", ".join(sorted(proxy.needs)) or "-"}
        if whole:
            row |= {"better": "higher" if proxy.higher_is_better else "lower", "reference": proxy.reference}
        for benchmark in measured() if whole else SHOWN:
            figure = measured()[benchmark].spearman.get(name)
            row[benchmark] = "-" if figure is None else f"{figure.value:.2f}"
        rows.append(row)
    status = listing(options, rows)
    if not whole:
        console().print("Figures: Spearman with accuracy, as measured. --json has all of them, and references.")
    return status


def run_spaces(options: Namespace) -> int:
    """List the search spaces."""
    check_paths(options)
    rows = []
    for name in list_spaces():
        space = get_space(name)
        tasks = ", ".join(space.tasks)
        rows.append({"name": name, "what": space.summary, "tasks": tasks, "reference": space.reference})
    return listing(options, rows)
