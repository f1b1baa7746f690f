"""``lswag proxies`` and ``lswag spaces``: what there is."""

from __future__ import annotations

from jsonargparse import Namespace

from lswag_hooks.commands.common import check_paths, listing
from lswag_hooks.proxies import list_proxies, proxy_class
from lswag_hooks.spaces import get_space, list_spaces


def run_proxies(options: Namespace) -> int:
    """List the proxies."""
    check_paths(options)
    rows = [
        {
            "name": name,
            "summary": proxy_class(name).summary,
            "better": "higher" if proxy_class(name).higher_is_better else "lower",
            "reference": proxy_class(name).reference,
        }
        for name in list_proxies()
    ]
    return listing(options, rows)


def run_spaces(options: Namespace) -> int:
    """List the search spaces."""
    check_paths(options)
    rows = []
    for name in list_spaces():
        space = get_space(name)
        tasks = ", ".join(space.tasks)
        rows.append({"name": name, "what": space.summary, "tasks": tasks, "reference": space.reference})
    return listing(options, rows)
