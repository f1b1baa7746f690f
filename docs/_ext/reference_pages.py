"""Writes a page for every proxy and every search space, from their docstrings and from what was measured.

The pages go to ``docs/reference``, which is not kept in git: they are made anew at each build, so that none can be
forgotten or out of date.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lswag_hooks
from lswag_hooks import functional, proxies
from lswag_hooks.measured import Figure, measured
from lswag_hooks.proxies import Proxy, list_proxies, proxy_class
from lswag_hooks.proxies.base import NEEDS
from lswag_hooks.spaces import Space, get_space, list_spaces

PASSES = " (F, B: forward, backward over its samples; f, b: of one sample; N: samples)"
FUNCTIONS = {  # of proxies whose function has another name
    "az_expressivity": "entropy",
    "az_progressivity": "progressivity",
    "lswag": "combine",
    "nas_graph": "average_degree",
    "reg_swap": "regularised",
    "te_nas_kappa": "condition_number",
    "te_nas_regions": "linear_regions",
    "tf_tas": "dss",
    "xi_gsnr": "gsnr",
}


def place_of(cls: type) -> str:
    """From where a reader would import a class of proxies.

    Example:
        >>> place_of(proxy_class("zico")), place_of(proxy_class("snip"))
        ('lswag_hooks.ZiCo', 'lswag_hooks.proxies.Snip')
    """
    for module in (lswag_hooks, proxies):
        if getattr(module, cls.__name__, None) is cls:
            return f"{module.__name__}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__name__}"


def proxy_page(proxy: type[Proxy]) -> str:
    """What it is, its class, and how it did where it was measured."""
    needs = sorted(proxy.needs, key=list(NEEDS).index)
    facts = {
        "better": "higher" if proxy.higher_is_better else "lower",
        "looks at": "; ".join(NEEDS[need] for need in needs) or "the network alone: no data and no pass",
        "passes": f"{proxy.cost()}{PASSES}",
        "defined on": proxy.families,
        "from": proxy.reference or "a count, no reference",
    }
    lines = [f"# {proxy.name}", "", f"{proxy.summary[:1].upper()}{proxy.summary[1:]}.", "", *_table(facts), ""]
    lines += ["```{eval-rst}", f".. autoclass:: {place_of(proxy)}", "   :no-members:", "```", ""]
    function = FUNCTIONS.get(proxy.name, proxy.name)
    if proxy.name in FUNCTIONS or inspect.isfunction(getattr(functional, function, None)):
        lines += ["It is computed by", "", "```{eval-rst}", f".. autofunction:: lswag_hooks.functional.{function}"]
        lines += ["   :no-index:", "```", ""]
    if proxy.traps:
        lines += ["## Known traps", "", *(f"- {trap[:1].upper()}{trap[1:]}." for trap in proxy.traps), ""]
    lines += ["How proxies are computed here, and how that differs from published code, is in [](/definitions.md).", ""]
    lines += ["## Measured", ""]
    mine = proxy.name
    rows = [
        f"| {name} | {one.networks_of(mine)} | {_figure(one.spearman[mine])} | {_figure(one.partial.get(mine))} |"
        for name, one in measured().items()
        if mine in one.spearman
    ]
    if not rows:
        return "\n".join(
            [*lines, "Not among the proxies whose figures come with the package: [](/correlations.md).", ""]
        )
    lines += [
        "Spearman correlation with accuracy and its 95 % interval; and what is left *given* parameters, flops, depth",
        "and log size. What the sets are is said in [](/correlations.md) and [](/trust.md).",
        "",
        "| networks of | how many | with accuracy | given the sizes |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def space_page(space: Space) -> str:
    """What it is, its tasks, an architecture and what it costs, its class."""
    cls = type(space)
    example = space.sample(rng=0)
    cost = space.cost(example)
    facts = {
        "ask for it": f'`lh.get_space("{cls.name}")`, `lswag search {cls.name}`, `{cls.name}/ARCHITECTURE` as a model',
        "architectures": f"{space.size:,}" if space.size else "not counted",
        "from": cls.reference,
    }
    lines = [f"# {cls.name}", "", f"{cls.summary[:1].upper()}{cls.summary[1:]}.", "", *_table(facts), ""]
    lines += ["```{eval-rst}", f".. autoclass:: {cls.__module__}.{cls.__name__}", "   :no-members:", "```", ""]
    for base in cls.__mro__[1 : cls.__mro__.index(Space)]:
        if base.__doc__:
            lines += ["```{eval-rst}", inspect.cleandoc(base.__doc__), "```", ""]
    lines += ["## Tasks", "", "| task | outputs | images |", "|---|---|---|"]
    for task, outputs in cls.tasks.items():
        lines.append(f"| {task} | {outputs} | {' x '.join(map(str, cls.image_shapes[task]))} |")
    lines += ["", "## One of them", "", f"Drawn with `sample(rng=0)`: {cost.params:,} parameters and"]
    lines += [f"{cost.macs:,} multiply-accumulates of one image of the first task.", "", "```text", example, "```", ""]
    lines += ["What every space can do (sample, mutate, build, count, ...) is told in [](/spaces.md).", ""]
    return "\n".join(lines)


def pages() -> Iterator[tuple[str, str]]:
    """Path below ``docs/reference`` and text of every page."""
    for name in list_proxies():
        yield f"proxies/{name}.md", proxy_page(proxy_class(name))
    for name in list_spaces():
        yield f"spaces/{name}.md", space_page(get_space(name))


def write(folder: Path) -> None:
    """Make the pages; those that are as they were are not touched, so that a second build is quick."""
    made = dict(pages())
    for path in folder.glob("*/*.md"):
        if path.relative_to(folder).as_posix() not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _table(facts: dict[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {what} | {told.replace('|', chr(92) + '|')} |" for what, told in facts.items())]


def _figure(one: Figure | None) -> str:
    return "" if one is None else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference"))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
