"""``lswag correlate``: compare proxies with known accuracies of a benchmark."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import (
    add_data,
    add_output,
    by,
    check_folder,
    check_paths,
    numbers,
    piped,
    task_batch,
    write,
)
from lswag_hooks.correlating import DEFAULT, correlate
from lswag_hooks.ranking import images_of
from lswag_hooks.report.table import console, table


def add_correlate(parser: ArgumentParser) -> None:
    """Add the options of ``lswag correlate``."""
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
    add_data(parser, "the task's own")
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
    add_output(parser)
    add("--config", action="config", help="a YAML file with any of these options")


def run_correlate(options: Namespace) -> int:
    """Score architectures of known accuracy and show the correlations."""
    check_paths(options)
    check_folder(options.out)
    batch = task_batch(options)
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
    write(options, found.to_dict(), found)
    if not piped(options):
        show = console().print
        set_up = found.settings
        show(f"{set_up['space']}, {set_up['task']}: {set_up['benchmark']} ({set_up['source']})")
        show(f"{len(batch)} samples of {batch.name}, {by(images_of(batch))}, seed {options.seed}")
        headers, rows = found.cells()
        show(table(headers, rows, right=set(range(1, len(headers)))))
        show("[95% bootstrap interval]; *: sizes, the baselines; given size: Spearman given all of those")
        for remark in found.remarks():
            show(remark)
        if files:
            show(f"written: {', '.join(map(str, files))}")
    return 130 if found.interrupted else 0 if len(found.complete) else 1
