"""Two directives that write tables from the registry of proxies, so that the pages cannot disagree with the code.

``proxy-table`` lists every registered proxy, with a link to its page (``reference_pages.py``); ``need-table`` says what
the names in its column of needs mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx import addnodes

from lswag_hooks.proxies import Proxy, list_proxies, proxy_class
from lswag_hooks.proxies.base import NEEDS


def options_of(proxy: type[Proxy]) -> list[str]:
    """Options of a proxy with their defaults; ``label``, which all of them have, is left out.

    Example:
        >>> options_of(proxy_class("reg_swap"))
        ['mu=None', 'sigma=None']
    """
    return [f"{field.name}={field.default!r}" for field in dataclasses.fields(proxy) if field.name != "label"]


def proxy_rows() -> list[list[str | list[str]]]:
    """One row a proxy, in the order of the registry; a list is shown as code."""
    rows: list[list[str | list[str]]] = []
    for name in list_proxies():
        proxy = proxy_class(name)
        rows.append(
            [
                [name],
                proxy.summary,
                sorted(proxy.needs, key=list(NEEDS).index) or "nothing",
                proxy.cost(),
                proxy.families,
                "higher" if proxy.higher_is_better else "lower",
                proxy.reference or "a count, no reference",
                options_of(proxy) or "none",
            ]
        )
    return rows


def table(headers: Sequence[str], rows: Iterable[Sequence[str | list[str]]], widths: Sequence[int]) -> nodes.table:
    """Lay out a table whose cells are texts, or lists of pieces of code."""
    group = nodes.tgroup(cols=len(headers))
    group += [nodes.colspec(colwidth=width) for width in widths]
    head, body = nodes.thead(), nodes.tbody()
    head += _row(headers)
    body += [_row(row) for row in rows]
    group += [head, body]
    made = nodes.table(classes=["colwidths-given"])
    made += group
    return made


def _row(cells: Sequence[str | list[str]]) -> nodes.row:
    made = nodes.row()
    for cell in cells:
        paragraph = nodes.paragraph()
        for index, piece in enumerate([cell] if isinstance(cell, str) else cell):
            if index:
                paragraph += nodes.Text(", ")
            paragraph += nodes.Text(piece) if isinstance(cell, str) else nodes.literal(piece, piece)
        entry = nodes.entry()
        entry += paragraph
        made += entry
    return made


class ProxyTable(Directive):
    """Every registered proxy."""

    def run(self) -> list[nodes.Node]:
        headers = ["name", "what it is", "needs", "passes", "defined on", "better", "reference", "options"]
        made = table(headers, proxy_rows(), [10, 20, 14, 8, 14, 6, 14, 14])
        body = next(made.findall(nodes.tbody))
        for name, row in zip(list_proxies(), body.children, strict=True):
            literal = next(row.findall(nodes.literal))
            page = f"/reference/proxies/{name}"
            link = addnodes.pending_xref(refdomain="std", reftype="doc", reftarget=page, refexplicit=True, refwarn=True)
            literal.replace_self(link)
            link += literal
        return [made]


class NeedTable(Directive):
    """What proxies may need."""

    def run(self) -> list[nodes.Node]:
        return [table(["need", "what is collected"], [[[name], text] for name, text in NEEDS.items()], [20, 80])]


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("proxy-table", ProxyTable)
    app.add_directive("need-table", NeedTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
