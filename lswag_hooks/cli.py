"""The command line: ``lswag score``, ``rank``, ``correlate``, ``proxies`` and ``spaces``."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.agreement import Agreement
from lswag_hooks.batch import Batch
from lswag_hooks.correlate import DEFAULT, correlate
from lswag_hooks.errors import InputError, LSWAGError
from lswag_hooks.images import Size
from lswag_hooks.models import build, expected_input_size
from lswag_hooks.proxies import list_proxies, proxy_class, resolve_proxies
from lswag_hooks.ranking import check_any, check_device, images_of, rank, with_size
from lswag_hooks.report.table import console, profile_table, ranking_table, table
from lswag_hooks.scoring import score
from lswag_hooks.spaces import get_space, list_spaces
from lswag_hooks.standings import Ranking, summarise
from lswag_hooks.verify import VerificationRow
from lswag_hooks.wording import jsonable, named, quantity

SIZE = (3, 224, 224)
EPILOGUE = (
    "A MODEL is timm/NAME, torchvision/NAME, SPACE/ARCHITECTURE (see `lswag spaces`), or the path of a function that "
    "returns one: module:function."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows ``lswag``; by default what the shell gave.

    Returns:
        The exit status: 0; 1 if no model could be ranked; 2 for bad input, told in one line on stderr; 130 after
        Ctrl-C.

    Example:
        >>> main(["spaces", "--csv", os.devnull, "--json", os.devnull])  # doctest: +ELLIPSIS
        name ...
        0
    """
    commands: dict[str, Callable[[Namespace], int]] = {
        "score": _score,
        "rank": _rank,
        "correlate": _correlate,
        "proxies": _proxies,
        "spaces": _spaces,
    }
    try:
        options = _parser().parse_args(None if arguments is None else list(arguments))
        return commands[options.subcommand](options[options.subcommand])
    except (LSWAGError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `lswag proxies | head`: whoever read has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print("lswag:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lswag: interrupted", file=sys.stderr)
        return 130


def numbers(value: Any) -> int | list[int]:
    """Read a whole number, or several with commas between them; YAML gives them as they are.

    Example:
        >>> numbers("224"), numbers("3,224,224"), numbers([7, 9])
        (224, [3, 224, 224], [7, 9])
    """
    try:
        if isinstance(value, list):
            return [int(part) for part in value]
        found = [int(part) for part in str(value).strip("[]() ").split(",")]
    except ValueError:
        # argparse words any other error itself
        raise ArgumentTypeError(f"{value!r} is neither a whole number nor several with commas between them") from None
    return found[0] if len(found) == 1 else found


class _Parser(ArgumentParser):
    def error(self, message: str, *_: Any) -> NoReturn:
        message = re.sub(r"\b(score|rank)\.models?\b", "MODEL", message)
        raise InputError(f"{message} (see {self.prog.replace('[options] ', '')} --help)")


def _parser() -> ArgumentParser:
    parser = _Parser(prog="lswag", description="Score and rank networks at initialisation.", epilog=EPILOGUE)
    commands = parser.add_subcommands(metavar="COMMAND")
    for name, add, text in (
        ("score", _add_score, "score one model"),
        ("rank", _add_rank, "score several models and put them in order"),
        ("correlate", _add_correlate, "compare proxies with known accuracies of a benchmark"),
        ("proxies", _add_output, "list the proxies"),
        ("spaces", _add_output, "list the search spaces"),
    ):
        epilog = EPILOGUE if add in (_add_score, _add_rank) else None
        command = _Parser(description=f"{text[0].upper()}{text[1:]}.", epilog=epilog)
        add(command)
        commands.add_subcommand(name, command, help=text)
    return parser


def _add_score(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="what to score")
    _add_common(parser, "the size that the model was made for, else 3,224,224")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the weights")
    parser.add_argument("--profile", action="store_true", help="print what was seen layer by layer")
    parser.add_argument("--verify", action="store_true", help="reconcile every layer's gradients with autograd")


def _add_rank(parser: ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="what to rank")
    _add_common(parser, "3,224,224")
    parser.add_argument(
        "--seeds", type=numbers, default=1, metavar="N", help="how many draws of the weights, or which: 0,5,7"
    )


def _add_correlate(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("space", metavar="SPACE", help="a search space (see `lswag spaces`), or timm")
    add("--benchmark", type=str, metavar="FILE", help="accuracies; by default what comes with this package")
    add("--task", type=str, help="of the benchmark; by default its first")
    add(
        "--architectures",
        type=int,
        metavar="N",
        help="how many to draw; 0: all; by default 1,000, if there are so many",
    )
    _add_data(parser, "the task's own")
    add("--proxies", type=str, default=DEFAULT, metavar="A,B", help="see `lswag proxies`; the sizes are always there")
    add("--interval", type=numbers, metavar="A,B", help="first and last tenth of the layers that L-SWAG counts, 0 to 9")
    add("--tenths", action="store_true", help="also L-SWAG over each tenth of the layers alone")
    add("--num-classes", "--num_classes", type=int, metavar="N", help="of the networks; by default the task's")
    add("--mode", type=str, default="score", help="score (evaluation, BatchNorm on batch statistics), train or eval")
    add("--init", type=str, metavar="wake", help="wake: score copies with zero gains, layer scales and heads awake")
    add("--seed", type=int, default=0, metavar="N", help="of the draw and of the weights")
    add("--store", type=str, metavar="FILE", help="keep finished scores here; the same command goes on where it ended")
    add("--workers", type=int, default=1, metavar="N", help="number of processes")
    add("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap")
    add("--out", type=str, metavar="FOLDER", help="write tables and pictures here")
    _add_output(parser)
    add("--config", action="config", help="a YAML file with any of these options")


def _add_data(parser: ArgumentParser, size: str) -> None:
    add = parser.add_argument
    add("--data", type=str, default="digits", help="digits, noise, an .npz file, or a folder with a folder a class")
    add("--size", type=numbers, metavar="C,H,W", help=f"of the images; by default {size}; an .npz keeps its own")
    add("--samples", type=int, default=64, metavar="N", help="how many images")


def _add_common(parser: ArgumentParser, size: str) -> None:
    add = parser.add_argument
    _add_data(parser, size)
    add("--proxies", type=str, default="lswag", metavar="A,B", help="see `lswag proxies`; the first decides the order")
    add("--interval", type=numbers, metavar="A,B", help="first and last tenth of the layers that L-SWAG counts, 0 to 9")
    add("--num-classes", "--num_classes", type=int, metavar="N", help="of the models; by default those of the data")
    add("--mode", type=str, default="score", help="score (evaluation, BatchNorm on batch statistics), train or eval")
    add("--init", type=str, metavar="wake", help="wake: score a copy with zero gains, layer scales and heads awake")
    add("--max-memory", "--max_memory", type=str, metavar="SIZE", help="such as 4GB; a batch that is too big is split")
    add("--device", type=str, default="cpu", help="cpu, cuda, mps")
    _add_output(parser)
    add("--config", action="config", help="a YAML file with any of these options")


def _add_output(parser: ArgumentParser) -> None:
    parser.add_argument("--json", type=str, metavar="PATH", help="write everything as JSON; - for stdout, and no table")
    parser.add_argument("--csv", type=str, metavar="PATH", help="write the table as CSV")


def _score(options: Namespace) -> int:
    _check_paths(options)
    proxies = resolve_proxies(options.proxies)
    keys = [proxy.key for proxy in proxies]
    batch, shared = _batch(options, expected_input_size(options.model))
    classes = batch.num_classes if options.num_classes is None else options.num_classes
    model = build(
        options.model, num_classes=classes, seed=options.seed, image_size=images_of(batch), device=batch.device
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lswag_hooks\.cli")  # the notes are printed
        result = score(model, batch, with_size(proxies), seed=options.seed, verify=options.verify, **shared)
    check_any(result, keys)

    row = summarise(options.model, keys, {options.seed: result}, {}, result.seconds)
    better = {proxy.key: proxy.higher_is_better for proxy in proxies}
    as_table = Ranking([row], better, [options.seed])
    _write(options, {"model": options.model, **result.to_dict()}, as_table)
    if options.json == "-":
        return 0
    show = console().print
    show(f"{options.model} on {len(batch)} samples of {batch.name}, {_by(images_of(batch))}, seed {options.seed}")
    scores = [[key, f"{result[key]:.6g}"] for key in keys if key not in result.reasons]
    show(table(["proxy", "score"], scores, right={1}))
    if row.reason:
        show(f"not scored: {row.reason}")
    layers = result.profile.weights  # none, if only sizes were asked for
    show(
        f"{quantity(row.params)} parameters, {quantity(row.flops)} multiply-accumulates, "
        + (f"{len(layers)} weight layers, " if layers else "")
        + f"{result.seconds:.1f} s"
    )
    if layers:
        show(f"covered: {result.coverage}")
    if options.profile:
        show(profile_table(result.profile) if layers else "no layer was looked at")
    if result.verification is not None:
        show(_verified(result.verification))
    if result.changes:
        show(f"changed in the copy: {named(result.changes)}")
    for note in result.notes:
        show(f"note: {note}")
    return 0


def _rank(options: Namespace) -> int:
    _check_paths(options)
    batch, shared = _batch(options, None)
    ranking = rank(
        options.models,
        batch,
        options.proxies,
        options.seeds,
        num_classes=options.num_classes,
        **shared,
    )
    _write(options, ranking.to_dict(), ranking)
    if options.json != "-":
        show = console().print
        seeds_used = ", ".join(map(str, ranking.seeds))
        show(f"{len(batch)} samples of {batch.name}, {_by(images_of(batch))}, seed {seeds_used}")
        if ranking.top():
            show(ranking_table(ranking))
        for remark in ranking.remarks():
            show(remark)
    if ranking.interrupted:
        return 130
    return 0 if ranking.top() else 1


def _correlate(options: Namespace) -> int:
    _check_paths(options)
    if options.out is not None and Path(options.out).exists() and not Path(options.out).is_dir():
        raise InputError(f"--out {options.out} is a file: give a folder.")
    size: Size | None = tuple(options.size) if isinstance(options.size, list) else options.size
    if size is None and not options.data.endswith(".npz"):
        size = SIZE if options.space == "timm" else _task_size(options.space, options.task)
    batch = Batch.load(options.data, size, options.samples)
    found = correlate(
        options.space,
        batch,
        options.proxies,
        benchmark=options.benchmark,
        task=options.task,
        architectures=options.architectures,
        seed=options.seed,
        num_classes=options.num_classes,
        interval=options.interval,
        tenths=options.tenths,
        mode=options.mode,
        init=options.init,
        store=options.store,
        workers=options.workers,
        resamples=options.resamples,
    )
    files = [] if options.out is None else found.save(options.out)
    _write(options, found.to_dict(), found)
    if options.json != "-":
        show = console().print
        set_up = found.settings
        show(f"{set_up['space']}, {set_up['task']}: {set_up['benchmark']} ({set_up['source']})")
        show(f"{len(batch)} samples of {batch.name}, {_by(images_of(batch))}, seed {options.seed}")
        headers, rows = found.cells()
        show(table(headers, rows, right=set(range(1, len(headers)))))
        show("[95% bootstrap interval]; *: sizes, the baselines; given size: Spearman given all of those")
        for remark in found.remarks():
            show(remark)
        if files:
            show(f"written: {', '.join(map(str, files))}")
    return 130 if found.interrupted else 0 if len(found.complete) else 1


def _task_size(space: str, task: str | None) -> Size:
    """The images that a task of a space takes, as one picture."""
    shapes = get_space(space).image_shapes
    shape = shapes.get(task or "", next(iter(shapes.values())))
    return shape if len(shape) == 3 else SIZE


def _proxies(options: Namespace) -> int:
    _check_paths(options)
    rows = [
        {
            "name": name,
            "summary": proxy_class(name).summary,
            "better": "higher" if proxy_class(name).higher_is_better else "lower",
            "reference": proxy_class(name).reference,
        }
        for name in list_proxies()
    ]
    return _listing(options, rows)


def _spaces(options: Namespace) -> int:
    _check_paths(options)
    rows = []
    for name in list_spaces():
        space = get_space(name)
        tasks = ", ".join(space.tasks)
        rows.append({"name": name, "what": space.summary, "tasks": tasks, "reference": space.reference})
    return _listing(options, rows)


def _listing(options: Namespace, rows: list[dict[str, str]]) -> int:
    import pandas as pd

    _write(options, rows, pd.DataFrame(rows))
    if options.json != "-":
        console().print(table(list(rows[0]), [list(row.values()) for row in rows]))
    return 0


def _batch(options: Namespace, own: Size | None) -> tuple[Batch, dict[str, Any]]:
    """The data, and the arguments that `score` and `rank` share."""
    device = check_device(options.device)
    size: Size | None = tuple(options.size) if isinstance(options.size, list) else options.size
    if size is None and not options.data.endswith(".npz"):
        size = own or SIZE
    batch = Batch.load(options.data, size, options.samples).to(device)
    return batch, {
        "interval": options.interval,
        "mode": options.mode,
        "init": options.init,
        "max_memory": options.max_memory,
    }


def _check_paths(options: Namespace) -> None:
    """Refuse, before any work, what could not be written after it."""
    for path in (options.json, options.csv):
        if path is not None and path != "-":
            if Path(path).is_dir():
                raise InputError(f"{path} is a folder: give a file to write.")
            if not Path(path).absolute().parent.is_dir():
                raise InputError(f"{path}: there is no folder {Path(path).parent}; make it first.")
    if options.csv == "-" and options.json == "-":
        raise InputError("--json - and --csv - would both write to stdout: send one to a file.")


def _write(options: Namespace, content: Any, table: Any) -> None:
    if options.json is not None:
        text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n", encoding="utf-8")
    if options.csv is not None:
        frame = table.to_pandas() if isinstance(table, (Agreement, Ranking)) else table
        frame.to_csv(sys.stdout if options.csv == "-" else options.csv, index=False)


def _verified(rows: Sequence[VerificationRow]) -> str:
    wrong = [f"{row.layer} ({max(row.sum_error, row.sample_error or 0.0):.1e})" for row in rows if not row.passed]
    empty = sum(row.vacuous for row in rows)
    said = f"verified: {len(rows) - len(wrong)} of {len(rows)} layers agree with autograd"
    said += f", {empty} of them with nothing but zeros to compare" if empty else ""
    return said + (f"; not {named(wrong)}" if wrong else "")


def _by(size: Size | None) -> str:
    return "as they are" if size is None or isinstance(size, int) else " x ".join(map(str, size))
