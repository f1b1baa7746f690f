"""A store as one page of HTML: everything is in the file, and it asks for nothing from a network."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from lswag_hooks.correlation import LEAST
from lswag_hooks.errors import InputError
from lswag_hooks.report.contents import PROFILES, Group, groups_of, versions
from lswag_hooks.store import Store
from lswag_hooks.wording import jsonable, quantity

LIMIT = 200  # rows that are shown at first: laying out thousands takes a browser seconds


def report(store: str | Path, order: str | None = None, title: str | None = None, profiles: int = PROFILES) -> str:
    """Make a page of what a store holds.

    Args:
        store: the file.
        order: the proxy that decides; by default ``lswag``, or the first that is no size.
        title: of the page; by default the name of the file.
        profiles: of how many candidates, the best of each group, to show the layers.

    Raises:
        InputError: there is no such store, it holds nothing, or Jinja2 or Plotly is missing.
    """
    path = Path(store).expanduser()
    if not path.exists():
        raise InputError(f"there is no store {path}: give the file of lswag rank, search or correlate --store.")
    if profiles < 0:
        raise InputError(f"profiles={profiles}: give none or more.")
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError(f"a report needs {error.name}: pip install 'lswag-hooks[report]'.") from None
    with Store(path) as opened:
        groups = groups_of(opened, order, profiles)
    files = resources.files("lswag_hooks.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["quantity"] = lambda value: "-" if value is None else quantity(float(value))
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=title or path.name,
        groups=groups,
        names=[_name(group) for group in groups],
        data=jsonable([_data(group) for group in groups]),
        versions=versions(),
        limit=LIMIT,
        least=LEAST,
        style=(files / "page.css").read_text(encoding="utf-8"),
        script=(files / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _name(group: Group) -> str:
    conditions = [f"{key} {value}" for key, value in group.conditions.items() if value is not None]
    return f"{group.space or 'models'}, batch {group.batch}, {', '.join(conditions) or 'no conditions'}"


def _data(group: Group) -> dict[str, Any]:
    """What the pictures are drawn from."""
    return {
        "names": [row["name"] for row in group.rows],
        "scores": {label: [row["scores"][label] for row in group.rows] for label in group.proxies},
        "spreads": {label: [row["spreads"][label] for row in group.rows] for label in group.proxies},
        "sizes": {size: [row[size] for row in group.rows] for size in ("params", "flops")},
        "better": group.higher_is_better,
        "order": group.order,
        "profiles": group.profiles,
    }
