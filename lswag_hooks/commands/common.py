"""What several commands share: options, data, and where the results go."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.images import Size
from lswag_hooks.parts import PerSample
from lswag_hooks.ranking import Ranking, check_device, images_of
from lswag_hooks.report.table import console, ranking_table, table
from lswag_hooks.spaces import get_space
from lswag_hooks.wording import jsonable

SIZE = (3, 224, 224)


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


def interval(value: Any) -> int | list[int] | str:
    """Read two numbers, or ``auto``."""
    return "auto" if value == "auto" else numbers(value)


def add_data(parser: ArgumentParser, size: str) -> None:
    """Add the options that say what to look at."""
    add = parser.add_argument
    kinds = "digits, noise, shapes (drawn, with boxes), an .npz file, a folder with a folder a class, or one of COCO"
    add("--data", type=str, default="digits", help=kinds)
    add("--size", type=numbers, metavar="C,H,W", help=f"of the images; by default {size}; an .npz keeps its own")
    add("--samples", type=int, default=64, metavar="N", help="how many images")


def add_common(parser: ArgumentParser, size: str) -> None:
    """Add the options that `score` and `rank` share."""
    add = parser.add_argument
    add_data(parser, size)
    add("--proxies", type=str, default="lswag", metavar="A,B", help="see `lswag proxies`; the first decides the order")
    add(
        "--interval",
        type=interval,
        metavar="A,B",
        help="first and last tenth of the layers that L-SWAG counts, 0 to 9; of `rank` also auto: where the "
        "candidates' gradients spike",
    )
    add("--num-classes", "--num_classes", type=int, metavar="N", help="of the models; by default those of the data")
    add("--mode", type=str, default="score", help="score (evaluation, BatchNorm on batch statistics), train or eval")
    add("--init", type=str, metavar="wake", help="wake: score a copy with zero gains, layer scales and heads awake")
    add("--max-memory", "--max_memory", type=str, metavar="SIZE", help="such as 4GB; a batch that is too big is split")
    add("--device", type=str, default="cpu", help="cpu, cuda, mps")
    add_output(parser)
    add("--config", action="config", help="a YAML file with any of these options")


def add_place(parser: ArgumentParser) -> None:
    """Add the options that say where candidates are scored, and where scores are kept."""
    add = parser.add_argument
    add("--store", type=str, metavar="FILE", help="keep finished scores here; the same command goes on where it ended")
    add("--engine", type=str, default="local", help="local or ray")
    add("--workers", type=int, default=1, metavar="N", help="number of processes")
    add("--address", type=str, metavar="HOST:PORT", help="of a started Ray cluster")


def add_output(parser: ArgumentParser) -> None:
    """Add the options that say where results go."""
    parser.add_argument("--json", type=str, metavar="PATH", help="write everything as JSON; - for stdout, and no table")
    parser.add_argument("--csv", type=str, metavar="PATH", help="write the table as CSV; - for stdout alone")


def task_size(space: str, task: str | None) -> Size:
    """The images that a task of a space takes, as one picture."""
    shapes = get_space(space).image_shapes
    shape = shapes.get(task or "", next(iter(shapes.values())))
    return shape if len(shape) == 3 else SIZE


def listing(options: Namespace, rows: list[dict[str, str]]) -> int:
    """Print rows of a list, or write them."""
    import pandas as pd

    write(options, rows, pd.DataFrame(rows))
    if not piped(options):
        console().print(table(list(rows[0]), [list(row.values()) for row in rows]))
    return 0


def load_batch(options: Namespace, own: Size | None) -> tuple[Batch, dict[str, Any]]:
    """The data, and the arguments that `score` and `rank` share."""
    device = check_device(options.device)
    return sized_batch(options, own or SIZE).to(device), {
        "interval": options.interval,
        "mode": options.mode,
        "init": options.init,
        "max_memory": options.max_memory,
    }


def sized_batch(options: Namespace, own: Size) -> Batch:
    """The data at the size that was asked for, or at their own, or at that of the models."""
    size: Size | None = tuple(options.size) if isinstance(options.size, list) else options.size
    if size is None and not options.data.endswith(".npz"):
        size = own
    return Batch.load(options.data, size, options.samples)


def task_batch(options: Namespace) -> Batch:
    """The data of a command that takes a space and a task, at the task's own size by default."""
    return sized_batch(options, SIZE if options.space == "timm" else task_size(options.space, options.task))


def check_folder(path: str | None) -> None:
    """Refuse, before any work, what is no place for a folder of results."""
    if path is not None and Path(path).exists() and not Path(path).is_dir():
        raise InputError(f"--out {path} is a file: give a folder.")


def check_paths(options: Namespace) -> None:
    """Refuse, before any work, what could not be written after it."""
    for path in (options.json, options.csv):
        if path is not None and path != "-":
            if Path(path).is_dir():
                raise InputError(f"{path} is a folder: give a file to write.")
            if not Path(path).absolute().parent.is_dir():
                raise InputError(f"{path}: there is no folder {Path(path).parent}; make it first.")
    if options.csv == "-" and options.json == "-":
        raise InputError("--json - and --csv - would both write to stdout: send one to a file.")


def piped(options: Namespace) -> bool:
    """Whether stdout is for JSON or CSV alone."""
    return "-" in (options.json, options.csv)


def write(options: Namespace, content: Any, table: Any) -> None:
    """Write results where the options say."""
    if options.json is not None:
        write_json(options.json, content)
    if options.csv is not None:
        frame = table.to_pandas() if hasattr(table, "to_pandas") else table
        frame.to_csv(sys.stdout if options.csv == "-" else options.csv, index=False)


def show_ranking(options: Namespace, ranking: Ranking, heading: str) -> int:
    """Write a ranking and show it under a heading; returns the exit status."""
    write(options, ranking.to_dict(), ranking)
    if not piped(options):
        show = console().print
        show(heading)
        if ranking.top():
            show(ranking_table(ranking))
        for remark in ranking.remarks():
            show(remark)
    if ranking.interrupted:
        return 130
    return 0 if ranking.top() else 1


def write_json(path: str | Path, content: Any) -> None:
    """Write plain data, to stdout for ``-``."""
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
    if path == "-":
        print(text)
    else:
        Path(path).write_text(text + "\n", encoding="utf-8")


def size_of(batch: Batch) -> str:
    """The size of a batch's images in words; pictures of a detector have several."""
    if isinstance(batch.inputs, PerSample):
        return "up to " + by(tuple(max(int(picture.shape[axis]) for picture in batch.inputs) for axis in range(3)))
    return by(images_of(batch))


def by(size: Size | None) -> str:
    """A size in words."""
    return "as they are" if size is None or isinstance(size, int) else " x ".join(map(str, size))
