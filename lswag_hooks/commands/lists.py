"""``lswag proxies`` and ``lswag spaces``: what there is."""

from __future__ import annotations

from jsonargparse import Namespace

from lswag_hooks.commands.common import check_paths, listing
from lswag_hooks.measured import measured
from lswag_hooks.proxies import list_proxies, proxy_class
from lswag_hooks.report.table import console, table
from lswag_hooks.spaces import get_space, list_spaces


def run_proxies(options: Namespace) -> int:
    """List the proxies, and how they did."""
    check_paths(options)
    whole = options.json is not None or options.csv is not None
    rows = []
    for name in list_proxies():
        proxy = proxy_class(name)
        row = {"name": name, "summary": proxy.summary, "needs": ", ".join(sorted(proxy.needs)) or "-"}
        row["passes"] = proxy.cost()
        if whole:
            row |= {"better": "higher" if proxy.higher_is_better else "lower", "reference": proxy.reference}
            row |= {"defined on": proxy.families, "traps": "; ".join(proxy.traps)}
            row |= _figures(name)
        rows.append(row)
    status = listing(options, rows)
    if not whole:
        _show_figures(console().width)
    return status


def _figures(proxy: str) -> dict[str, str]:
    found = {name: one.spearman.get(proxy) for name, one in measured().items()}
    return {name: "-" if figure is None else f"{figure.value:.2f}" for name, figure in found.items()}


def _show_figures(width: int) -> None:
    """Print figures of every benchmark, as many beside one another as fit."""
    show = console().print
    show("F, B: forward and backward pass over the samples; f, b: of one; N: number of samples")
    show("\nSpearman with accuracy, as measured; --json has references, valid networks and known traps, too")
    names = [name for name in list_proxies() if set(_figures(name).values()) != {"-"}]
    left = list(measured())
    while left:
        part = [left.pop(0)]
        room = width - max(map(len, names)) - 2 - len(part[0])
        while left and (room := room - len(left[0]) - 2) >= 0:
            part.append(left.pop(0))
        figures = [[name, *(_figures(name)[one] for one in part)] for name in names]
        show(table(["", *part], [row for row in figures if set(row[1:]) != {"-"}], right=set(range(1, len(part) + 1))))
        show()


def run_spaces(options: Namespace) -> int:
    """List the search spaces."""
    check_paths(options)
    rows = []
    for name in list_spaces():
        space = get_space(name)
        tasks = ", ".join(space.tasks)
        rows.append({"name": name, "what": space.summary, "tasks": tasks, "reference": space.reference})
    return listing(options, rows)
