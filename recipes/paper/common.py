"""What the scripts share: a command line with two forms, the paper's own figures, tables, CSV files and pictures."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from jsonargparse import ArgumentParser

from lswag_hooks.errors import InputError
from lswag_hooks.report.table import console, table
from recipes.paper.tasks import Measuring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
SHARED = HERE / "configs" / "measuring.yaml"  # for all scripts, their own configuration is laid over it


def command(run: Callable[..., object], args: Sequence[str] | None = None) -> int:
    """Read a script's command line, its configuration and the ``small`` part of it, and call ``run(data, out, ...)``.

    A configuration is the full form; its key ``small`` holds what differs in the small one. What is given on the
    command line counts more than both, for example ``--measuring.workers 4``.

    Raises:
        InputError: a configuration cannot be read.
    """
    name = Path(inspect.getfile(inspect.unwrap(run))).stem  # run as a module, it is called __main__
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", action="append", default=[])
    first.add_argument("--small", action="store_true")
    given, rest = first.parse_known_args(args)
    parser = ArgumentParser(prog=f"python -m recipes.paper.{name}", description=run.__doc__)
    parser.add_argument("data", type=str, help="folder with benchmarks/, vit/, images/, and data sets as published")
    parser.add_argument("--out", type=str, required=True, help="folder of results; scripts that share one share scores")
    parser.add_argument("--small", action="store_true", help="a form for minutes on two cores")
    parser.add_argument("--settings", action="config", help=argparse.SUPPRESS)
    parser.add_argument("--config", type=str, help=f"YAML to lay over recipes/paper/configs/{name}.yaml")
    parser.add_function_arguments(run, skip={"data", "out"}, as_group=False)
    files = [SHARED, HERE / "configs" / f"{name}.yaml", *given.config]
    settings = configured(files, given.small, set(inspect.signature(run).parameters))
    options = vars(parser.parse_args(["--settings", yaml.safe_dump(settings), *rest]))
    chosen = {key: value for key, value in options.items() if key not in ("small", "settings", "config")}
    if "measuring" in chosen:
        chosen["measuring"] = Measuring(**vars(chosen["measuring"]))
    data, out = (Path(chosen.pop(key)).expanduser() for key in ("data", "out"))
    if not data.is_dir():
        raise InputError(f"there is no folder {data}: give the one that holds benchmarks/ and images/.")
    out.mkdir(parents=True, exist_ok=True)
    run(data, out, **chosen)
    return 0


def configured(files: Sequence[str | Path], small: bool, known: set[str]) -> dict[str, Any]:
    """Configurations laid over each other, then their small parts; of the shared one what the script takes.

    Raises:
        InputError: one cannot be read.
    """
    full: dict[str, Any] = {}
    less: dict[str, Any] = {}
    for file in files:
        try:
            read = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8")) or {}
            own = read.pop("small", None) or {}
        except (OSError, yaml.YAMLError, AttributeError) as error:
            raise InputError(f"--config {file} cannot be read: {error}") from None
        if file == SHARED:
            read, own = ({key: part[key] for key in part if key in known} for part in (read, own))
        full, less = laid_over(full, read), laid_over(less, own)
    return laid_over(full, less) if small else full


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others laid over them, group by group.

    Example:
        >>> laid_over({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
        {'a': {'b': 1, 'c': 3}}
    """
    made = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = laid_over(made[key], value) if both else value
    return made


def published(name: str) -> pd.DataFrame:
    """A table of the paper; its first line says which.

    Example:
        >>> published("tab5").loc["all", "nb301"]
        np.float64(0.55)
    """
    return pd.read_csv(HERE / "published" / f"{name}.csv", comment="#", index_col=0)


def side_by_side(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """One row for each figure: ours and the paper's, NaN where there is none; rows of either are kept.

    Args:
        ours: such as one row a method, one column a task.
        paper: likewise.

    Example:
        >>> both = side_by_side(pd.DataFrame({"t": [0.5]}, ["m"]), pd.DataFrame({"t": [0.6], "u": [0.7]}, ["m"]))
        >>> both.values.tolist()
        [['m', 't', 0.5, 0.6], ['m', 'u', nan, 0.7]]
    """
    rows = dict.fromkeys([*ours.index, *paper.index])
    columns = dict.fromkeys([*(name for name in ours if name in paper), *(name for name in ours if name not in paper)])
    columns |= dict.fromkeys(paper)

    def of(frame: pd.DataFrame, row: Any, column: Any) -> float:
        return float(frame.loc[row, column]) if row in frame.index and column in frame else float("nan")

    found = [(row, column, of(ours, row, column), of(paper, row, column)) for column in columns for row in rows]
    return pd.DataFrame(found, columns=["what", "task", "ours", "paper"])


def report(
    out: Path, name: str, title: str, both: pd.DataFrame, figure: Figure | None = None, notes: Sequence[str] = ()
) -> None:
    """Print figures as "ours (paper's)", a task a line, and write ``NAME.csv`` and ``NAME.png``."""
    both.to_csv(out / f"{name}.csv", index=False)
    known = both[both["ours"].notna()]
    shown = both[both["task"].isin(known["task"]) & both["what"].isin(known["what"])]
    names, tasks = list(dict.fromkeys(shown["what"])), list(dict.fromkeys(shown["task"]))
    cells = {
        (row.what, row.task): number(row.ours) + (f" ({number(row.paper)})" if row.paper == row.paper else "")
        for row in shown.itertuples(index=False)
    }
    rows = [[str(task), *(cells.get((one, task), "") for one in names)] for task in tasks]
    print(f"\n{title}: " + ("nothing can be had from so few networks" if known.empty else "ours (the paper's)"))
    for chosen in _fitting(["", *map(str, names)], rows):
        part = [[row[column] for column in chosen] for row in rows]
        headers = ["" if column == 0 else str(names[column - 1]) for column in chosen]
        console().print(table(headers, part, right=set(range(1, len(chosen)))))
    lacking = [str(task) for task in dict.fromkeys(both["task"]) if task not in tasks]
    told = [f"of the paper's but not here, in the CSV file alone: {', '.join(lacking)}"] if lacking else []
    for note in [*notes, *told]:
        print(f"- {note}")
    if figure is not None:
        figure.savefig(out / f"{name}.png", dpi=150)
    print(f"written: {out / name}.csv" + (f", {name}.png" if figure is not None else ""))


def _fitting(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int = 78) -> list[list[int]]:
    """Columns in groups, each with the first one, that fit into a width."""
    wide = [max(map(len, column)) + 2 for column in zip(headers, *rows, strict=True)]
    groups: list[list[int]] = []
    for column in range(1, len(headers)):
        if not groups or wide[0] + sum(wide[other] for other in groups[-1][1:]) + wide[column] > width:
            groups.append([0])
        groups[-1].append(column)
    return groups


def number(value: float) -> str:
    """Two decimals, no leading zero; a dash for NaN.

    Example:
        >>> number(-0.456), number(10.0), number(float("nan"))
        ('-.46', '10.00', '-')
    """
    return "-" if value != value else re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}")


def panels(rows: int, columns: int, width: float = 3.6, height: float = 3.0) -> tuple[Figure, list[Any]]:
    """A figure of its own (no window, no global state) and its axes in a list.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib: pip install 'lswag-hooks[plots]'.") from None
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).ravel())


def heatmap(*frames: tuple[str, pd.DataFrame]) -> Figure:
    """Tables of correlations as colours, from -1 to 1, with the numbers in them; one below the other."""
    most, longest = (max(frame.shape[axis] for _, frame in frames) for axis in (1, 0))
    figure, axes = panels(len(frames), 1, 2.5 + 0.45 * most, 1.6 + 0.28 * longest)
    for axis, (title, frame) in zip(axes, frames, strict=True):
        values = frame.to_numpy(dtype=float)
        axis.imshow(values, cmap="RdYlGn", vmin=-1, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                axis.text(column, row, number(value), ha="center", va="center", fontsize=7)
        axis.set_xticks(range(frame.shape[1]), frame.columns, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(frame.shape[0]), frame.index, fontsize=8)
        axis.set_title(title, fontsize=9)
    return figure


def bars(both: pd.DataFrame) -> Figure | None:
    """Ours as bars and the paper's as points, a panel for each task; None where there is nothing of ours."""
    tasks = list(dict.fromkeys(both.loc[both["ours"].notna(), "task"]))
    if not tasks:
        return None
    columns = min(4, len(tasks))
    figure, axes = panels(-(-len(tasks) // columns), columns)
    for axis, task in zip(axes, tasks, strict=False):
        part = both[both["task"] == task]
        places = np.arange(len(part))
        axis.barh(places, part["ours"], alpha=0.6, label="ours")
        axis.plot(part["paper"], places, "kD", markersize=4, label="paper")
        axis.set_yticks(places, part["what"], fontsize=7)
        axis.set_title(task, fontsize=9)
        axis.invert_yaxis()
    axes[0].legend(fontsize=7)
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    return figure
