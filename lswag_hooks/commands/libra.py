"""``lswag libra fit``, ``apply`` and ``explain``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lswag_hooks.benchmark import Benchmark
from lswag_hooks.ensembles.checked import LibraChecked
from lswag_hooks.ensembles.fitted import list_fitted
from lswag_hooks.ensembles.libra import Libra
from lswag_hooks.ensembles.tables import read_csv
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.report.table import console, table
from lswag_hooks.wording import named

if TYPE_CHECKING:
    import pandas as pd
    from jsonargparse import ArgumentParser, Namespace

RULES = {"paper": Libra, "checked": LibraChecked}
MEASURED = resources.files("lswag_hooks") / "data" / "libra" / "results.csv"


def add_libra(parser: ArgumentParser) -> None:
    """Add the three subcommands and their options."""
    commands = parser.add_subcommands(metavar="ACTION")
    for name, add, text in (
        ("fit", _add_fit, "choose proxies by known accuracies"),
        ("apply", _add_apply, "rank candidates by their scores, without accuracies"),
        ("explain", _add_explain, "show what led to a choice, and how well it did"),
    ):
        command = type(parser)(description=f"{text[0].upper()}{text[1:]}.")
        add(command)
        commands.add_subcommand(name, command, help=text)


def run_libra(options: Namespace) -> int:
    """Run the subcommand that was parsed; the exit status, 1 if no candidate could be ranked.

    Raises:
        InputError: what was asked for makes no sense, or a file is not there.
    """
    actions = {"fit": _fit, "apply": _apply, "explain": _explain}
    return actions[options.subcommand](options[options.subcommand])


def _add_fit(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("scores", nargs="?", metavar="SCORES.csv", help="one column a proxy, one row an architecture")
    add("--accuracy", type=str, metavar="COLUMN", help="which column of it holds the accuracies")
    add("--benchmark", type=str, metavar="FILE", help="published accuracies; its published proxies if no SCORES.csv")
    add("--task", type=str, help="of the benchmark, or of a column `task`; needed if there are several")
    add("--out", "-o", type=str, required=True, metavar="FILE.json", help="write the fitted LIBRA here")
    add("--rule", type=str, default="paper", help="paper, or checked: members are tried on networks held back")
    add("--tolerance", type=float, metavar="X", help="distance from the best correlation; paper: 0.1, checked: any")
    add("--bins", type=str, default="sturges", help="sturges, nbsz or quantile")
    add("--bias", type=str, default="pearson_of_ranks", help="pearson_of_ranks or pearson")
    add("--merge", type=str, default="log", help="log, rank or zscore")
    add("--size", type=str, default="params", metavar="COLUMN", help="the column of sizes")
    add("--outliers", type=str, default="quantile", help="quantile, keep or refuse")
    add("--lower-is-better", "--lower_is_better", type=str, metavar="A,B", help="proxies that are better when lower")
    add("--fit-directions", "--fit_directions", action="store_true", help="which way is better: as correlations say")


def _add_apply(parser: ArgumentParser) -> None:
    parser.add_argument("libra", metavar="LIBRA", help="a file that `fit` wrote, or a name (see `lswag libra explain`)")
    parser.add_argument("scores", metavar="SCORES.csv", help="one column a proxy, one row a candidate")
    parser.add_argument("--top", type=int, metavar="N", help="show the first N only")
    parser.add_argument("--csv", type=str, metavar="PATH", help="write all ranks as CSV")


def _add_explain(parser: ArgumentParser) -> None:
    parser.add_argument(
        "libra",
        nargs="?",
        metavar="LIBRA",
        help="a file, or a name; without one: the names, and how well each way does",
    )
    parser.add_argument("--json", type=str, metavar="PATH", help="write it as JSON; - for stdout, and no text")


def _fit(options: Namespace) -> int:
    if options.rule not in RULES:
        near = near_matches(options.rule, RULES)
        raise InputError(f"--rule {options.rule!r}:{near} there are {', '.join(RULES)}.")
    if options.fit_directions and options.lower_is_better:
        raise InputError("--fit-directions finds what --lower-is-better declares: give one of them.")
    if not Path(options.out).absolute().parent.is_dir():
        raise InputError(f"{options.out}: there is no folder {Path(options.out).parent}; make it first.")
    settings = {key: options[key] for key in ("bins", "bias", "merge", "size", "outliers")}
    if options.tolerance is not None:
        settings["tolerance"] = options.tolerance
    if options.fit_directions:
        settings["higher_is_better"] = "fit"
    elif options.lower_is_better:
        settings["higher_is_better"] = {name.strip(): False for name in options.lower_is_better.split(",")}
    libra = RULES[options.rule](**settings)

    if options.benchmark is None:
        if options.scores is None or options.accuracy is None:
            raise InputError("give SCORES.csv and --accuracy COLUMN, or --benchmark FILE.")
        libra.fit(options.scores, options.accuracy, options.task)
    elif options.accuracy is not None:
        raise InputError("--accuracy names a column of SCORES.csv; --benchmark has accuracies of its own: give one.")
    else:
        benchmark = Benchmark.load(options.benchmark)
        if options.scores is None:
            libra.fit(benchmark, task=options.task)
        else:
            task = options.task if options.task is not None or len(benchmark.tasks) > 1 else benchmark.tasks[0]
            if task is None:
                raise InputError(f"{benchmark.name} holds several tasks: --task {' or '.join(benchmark.tasks)}.")
            libra.fit(read_csv(options.scores, []), benchmark.accuracy(task))
            libra.seen["source"] = {
                "file": Path(options.scores).name,
                "benchmark": benchmark.name,
                "task": task,
            }
    libra.save(options.out)
    show = console().print
    show(libra.report())
    show(f"written: {options.out}")
    return 0


def _apply(options: Namespace) -> int:
    libra = Libra.load(options.libra)
    passed: list[str] = []
    scores = read_csv(options.scores, passed)
    ranks = libra.rank(scores)
    if options.csv is not None:
        ranks.to_csv(options.csv, index_label=scores.index.name or "candidate")
    show = console().print
    show(f"{len(ranks)} candidates of {options.scores}, by {' + '.join(_members(libra))}")
    ranked = ranks.dropna()
    if len(ranked):
        columns = scores.loc[ranked.index, list(libra.selected)] if scores.index.is_unique else None
        show(table(*_cells(ranked if options.top is None else ranked[: options.top], columns), right={0}))
    missing = ranks.index[ranks.isna()]
    if len(missing):
        show(f"not ranked, because a score is missing: {len(missing)}: {named(map(str, missing))}")
    return 0 if len(ranked) else 1


def _cells(ranks: pd.Series, columns: pd.DataFrame | None) -> tuple[list[str], list[list[str]]]:
    headers = ["rank", "candidate", *(columns if columns is not None else ())]
    rows = []
    for name, rank in ranks.items():
        values = [] if columns is None else [f"{value:.6g}" for value in columns.loc[name]]
        rows.append([f"{rank:g}", str(name), *values])
    return headers, rows


def _members(libra: Libra) -> list[str]:
    """Chosen proxies, with a weight that is not 1 and a minus where lower is better."""
    proxies = libra.seen["proxies"]
    return [
        ("" if proxies[name]["higher_is_better"] else "-") + name + ("" if weight == 1 else f" x {weight:g}")
        for name, weight in libra.weights.items()
    ]


def _explain(options: Namespace) -> int:
    from lswag_hooks.commands.common import write_json

    if options.libra is None:
        content: Any = {"fitted": list_fitted(), "measured": _measured().to_dict("records")}
        said: list[Any] = _overview()
    else:
        libra = Libra.load(options.libra)
        content = libra.to_dict()
        said = [libra.report(), *_held_out(libra)]
    if options.json is not None:
        write_json(options.json, content)
        if options.json == "-":
            return 0
    show = console().print
    for part in said:
        show(part)
    return 0


def _measured() -> pd.DataFrame:
    """Spearman on halves that were not fitted to: columns method, task, mean, std (over ten splits)."""
    import pandas as pd

    with resources.as_file(MEASURED) as path:
        return pd.read_csv(path)


def _overview() -> list[Any]:
    measured = _measured()
    wide = measured.pivot(index="method", columns="task", values="mean").loc[list(dict.fromkeys(measured["method"]))]
    fitted = [name for name in list_fitted() if not name.endswith("/checked")]
    parts: list[Any] = [
        "Fitted to published tables, for `lswag libra apply` (the checked rule: the same with /checked at the end):",
        *(f"  {name}" for name in fitted),
        "",
        "Spearman of each way to choose and merge on halves of the tables that it was not fitted to, means over ten "
        "splits; of the paper what it gives, on architectures of its own choice:",
    ]
    spaces: dict[str, list[str]] = {}
    for task in dict.fromkeys(measured["task"]):
        space = task.split("/")[0]
        spaces.setdefault("nasbench" if space.startswith("nasbench") else space, []).append(task)
    for space, tasks in spaces.items():
        rows = [
            [str(name).removeprefix("proxy "), *map(_three, row)]
            for name, row in wide[tasks].dropna(how="all").iterrows()
        ]
        # all of NAS-Bench's are CIFAR-10, those of the other spaces differ by task
        titles = [task.removeprefix("nasbench").split("/")[space != "nasbench"] for task in tasks]
        parts += ["", table([space, *titles], rows, right=set(range(1, len(tasks) + 1)))]
    return parts


def _held_out(libra: Libra) -> list[str]:
    """How a LIBRA of this package did on halves that it was not fitted to."""
    source = libra.seen["source"]
    if "sha256" not in source:
        return []
    found = _measured()
    tables = {"nasbench201": "nasbench201_release"}  # which of two tables it was fitted to
    benchmark = tables.get(source["benchmark"], source["benchmark"])
    here = found[found["task"] == f"{benchmark}/{source['task']}"].set_index("method")
    names = ("LIBRA", "LibraChecked", "best proxy")
    shown = ", ".join(f"{name} {_three(here['mean'][name])} ± {_three(here['std'][name])}" for name in names)
    return [f"fitted to one half and judged on the other, ten times: {shown}"]


def _three(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
