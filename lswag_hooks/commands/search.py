"""``lswag search``: search a space for the architectures that proxies think best."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import add_data, add_place, check_paths, numbers, piped, task_batch, write
from lswag_hooks.ensembles import Libra
from lswag_hooks.errors import InputError
from lswag_hooks.latency import Latency
from lswag_hooks.report.table import console, table
from lswag_hooks.search import ALGORITHMS, EVALUATIONS, Evolution, OptunaSearch, Pruning, RandomSearch, search
from lswag_hooks.spaces import Space, get_space
from lswag_hooks.spaces.darts_supernet import Supernet

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def amount(value: Any) -> int:
    """Read a number of parameters or flops, such as ``24M``.

    Example:
        >>> amount("24M"), amount("1.5G"), amount(300)
        (24000000, 1500000000, 300)
    """
    text = str(value).strip().lower().replace("_", "")
    factor = _UNITS.get(text[-1:], 1)
    try:
        found = float(text[:-1] if text[-1:] in _UNITS else text) * factor
    except ValueError:
        found = float("nan")
    if not 0 < found < float("inf"):
        raise ArgumentTypeError(f"{value!r} is no number of parameters or flops: write it like 24M")
    return round(found)


def bounds(value: Any) -> dict[str, float]:
    """Read names with numbers, such as ``swap=200,latency=0.02``; YAML gives them as they are.

    Example:
        >>> bounds("swap=200,latency=0.02")
        {'swap': 200.0, 'latency': 0.02}
    """
    if isinstance(value, dict):
        return {str(name): float(bound) for name, bound in value.items()}
    pairs = [part.partition("=") for part in str(value).split(",")]
    try:
        return {name.strip(): float(bound) for name, _, bound in pairs}
    except ValueError:
        raise ArgumentTypeError(f"{value!r}: write it like swap=200,latency=0.02") from None


def add_search(parser: ArgumentParser) -> None:
    """Add the options of ``lswag search``."""
    add = parser.add_argument
    add("space", metavar="SPACE", help="a search space (see `lswag spaces`)")
    add("--proxies", type=str, default="lswag", metavar="A,B", help="see `lswag proxies`; several are merged by rank")
    add("--libra", type=str, metavar="FILE", help="a fitted LIBRA, or the name of one, instead of --proxies")
    add("--algorithm", type=str, default="evolution", help=", ".join(ALGORITHMS))
    add(
        "--objectives",
        type=str,
        default="score",
        metavar="A,B",
        help="score,params,latency searches for a Pareto front",
    )
    add("--require", type=bounds, metavar="P=X,..", help="rule out candidates beyond these: swap=200,latency=0.02")
    add("--latency-samples", "--latency_samples", type=int, metavar="N", help="images at a time for the latency: 1")
    add("--latency-repeats", "--latency_repeats", type=int, metavar="N", help="passes of which it is the median: 10")
    add("--latency-device", "--latency_device", type=str, metavar="D", help="where it is measured: cpu")
    add("--evaluations", type=int, metavar="N", help=f"how many architectures to score; by default {EVALUATIONS:,}")
    for name, text in (("params", "parameters"), ("flops", "flops")):
        for bound, which in (("max", "most"), ("min", "fewest")):
            add(f"--{bound}-{name}", f"--{bound}_{name}", type=amount, metavar="X", help=f"{which} {text}, such as 24M")
    add("--merge", type=str, default="log", help="how several proxies are merged: log, rank or zscore")
    add("--population", type=int, metavar="N", help="architectures of a generation; by default 50")
    add("--mutations", type=int, metavar="N", help="mutations in it; by default half of it")
    add("--crossovers", type=int, metavar="N", help="crossovers in it; by default half of it")
    add("--parents", type=int, default=10, metavar="N", help="how many of the best so far have these as parents")
    add(
        "--supernet", type=numbers, default=[1, 2, 1], metavar="C,N,S", help="pruning: channels, cells, stem multiplier"
    )
    add("--repeats", type=int, default=3, metavar="N", help="pruning: draws of the weights")
    add("--spatial-mlp", "--spatial_mlp", type=bool, default=True, help="burgerformer: false leaves spatial_mlp out")
    add("--task", type=str, help="of the space; by default its first")
    add_data(parser, "the task's own")
    add("--interval", type=numbers, metavar="A,B", help="first and last tenth of the layers that L-SWAG counts, 0 to 9")
    add("--num-classes", "--num_classes", type=int, metavar="N", help="of the networks; by default the task's")
    add("--mode", type=str, default="score", help="score (evaluation, BatchNorm on batch statistics), train or eval")
    add("--init", type=str, metavar="wake", help="wake: score copies with zero gains, layer scales and heads awake")
    add("--seed", type=int, default=0, metavar="N", help="of the search and of the weights")
    add_place(parser)
    add("--resume", action="store_true", help="insist that the store has something to go on with")
    add("--best", type=int, default=10, metavar="N", help="how many of the best architectures to show and write")
    add("--yaml", type=str, metavar="FILE", help="write the best architectures here, as recipes read them")
    add("--json", nargs="?", const="-", type=str, metavar="PATH", help="print everything as JSON, or write it there")
    add("--csv", type=str, metavar="PATH", help="write all that was scored as CSV")
    add("--config", action="config", help="a YAML file with any of these options")


def run_search(options: Namespace) -> int:
    """Search, and show the best.

    Returns:
        The exit status: 0; 1 if nothing could be scored; 130 after Ctrl-C.
    """
    check_paths(options)
    if options.yaml is not None and not Path(options.yaml).absolute().parent.is_dir():
        raise InputError(f"{options.yaml}: there is no folder {Path(options.yaml).parent}; make it first.")
    if options.best < 1:
        raise InputError(f"--best {options.best}: give one or more.")
    space = _space(options)
    found = search(
        space,
        task_batch(options),
        options.proxies if options.libra is None else Libra.load(options.libra),
        algorithm=_algorithm(options),
        objectives=options.objectives,
        evaluations=options.evaluations,
        seed=options.seed,
        max_params=options.max_params,
        min_params=options.min_params,
        max_flops=options.max_flops,
        min_flops=options.min_flops,
        require=options.require,
        latency=_latency(options),
        merge=options.merge,
        task=options.task,
        num_classes=options.num_classes,
        interval=options.interval,
        mode=options.mode,
        init=options.init,
        store=options.store,
        resume=options.resume,
        engine=options.engine,
        workers=options.workers,
        address=options.address,
    )
    write(options, found.to_dict(options.best), found.to_pandas())
    if options.yaml is not None:
        found.to_yaml(options.yaml, options.best)
    if not piped(options):
        show = console().print
        headers, rows = found.cells(options.best)
        show(table(headers, rows, right=set(range(1, len(headers)))))
        for remark in found.remarks():
            show(remark)
    return 130 if found.interrupted else 0 if found.top(1) else 1


def _space(options: Namespace) -> Space:
    space = get_space(options.space)
    if options.spatial_mlp:
        return space
    if space.name != "burgerformer":
        raise InputError(f"--spatial-mlp is of burgerformer, not of {space.name}: leave it out.")
    from lswag_hooks.spaces.burgerformer import BurgerFormer

    return BurgerFormer(spatial_mlp=False)


def _latency(options: Namespace) -> Latency | None:
    given = {name: getattr(options, f"latency_{name}") for name in ("samples", "repeats", "device")}
    given = {name: value for name, value in given.items() if value is not None}
    return Latency(**given) if given else None


def _algorithm(options: Namespace) -> Any:
    population = 50 if options.population is None else options.population
    if options.algorithm == "evolution":
        half = population // 2
        mutations = half if options.mutations is None else options.mutations
        crossovers = half if options.crossovers is None else options.crossovers
        return Evolution(population, mutations, crossovers, options.parents)
    if options.algorithm == "random":
        return RandomSearch(population)
    if options.algorithm == "optuna":
        return OptunaSearch(population=population)
    if options.algorithm == "pruning":
        sizes = options.supernet if isinstance(options.supernet, list) else [options.supernet]
        if len(sizes) > 3:
            raise InputError("--supernet takes channels, cells and stem multiplier, such as 1,2,1.")
        return Pruning(Supernet(*sizes), repeats=options.repeats)
    return options.algorithm  # refused by search, with the names that there are
