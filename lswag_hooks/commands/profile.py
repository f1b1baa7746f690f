"""``lswag profile``: where along the depth of a space's networks gradients spike."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import (
    add_data,
    add_output,
    by,
    check_folder,
    check_paths,
    piped,
    task_batch,
    write,
    write_json,
)
from lswag_hooks.profiling import gradient_curves
from lswag_hooks.ranking import images_of
from lswag_hooks.report.table import console, table
from lswag_hooks.wording import quantity

WIDTH = 40  # of the longest bar


def add_profile(parser: ArgumentParser) -> None:
    """Add the options of ``lswag profile``."""
    add = parser.add_argument
    add("space", metavar="SPACE", help="a search space (see `lswag spaces`)")
    add("--networks", type=int, default=1000, metavar="N", help="how many to draw")
    add("--task", type=str, help="of the space; by default its first")
    add_data(parser, "the task's own")
    add("--num-classes", "--num_classes", type=int, metavar="N", help="of the networks; by default the task's")
    add("--seed", type=int, default=0, metavar="N", help="of the draw and of the weights")
    add("--store", type=str, metavar="FILE", help="keep finished scores here; the same command goes on where it ended")
    add("--workers", type=int, default=1, metavar="N", help="number of processes")
    add("--out", type=str, metavar="FOLDER", help="write tables and pictures here")
    add_output(parser)
    add("--config", action="config", help="a YAML file with any of these options")


def run_profile(options: Namespace) -> int:
    """Draw networks, look at their gradients, show the curve and its spike."""
    check_paths(options)
    check_folder(options.out)
    batch = task_batch(options)
    found = gradient_curves(
        options.space,
        batch,
        options.networks,
        task=options.task,
        seed=options.seed,
        num_classes=options.num_classes,
        store=options.store,
        workers=options.workers,
    )
    write(options, found.to_dict(), found)
    files = []
    if options.out is not None:
        from lswag_hooks.report import plots

        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        found.to_pandas().to_csv(folder / "curves.csv")
        write_json(folder / "summary.json", found.to_dict())
        plots.gradient_curves({found.settings["space"]: found}).savefig(folder / "curves.png", dpi=150)
        plots.gradient_curves(found.by_depth()).savefig(folder / "by_depth.png", dpi=150)
        files = [str(folder / name) for name in ("curves.csv", "summary.json", "curves.png", "by_depth.png")]
    if not piped(options):
        show = console().print
        show(f"{found.settings['space']}: {len(found.curves)} networks, seed {options.seed}")
        show(f"{len(batch)} samples of {batch.name}, {by(images_of(batch))}")
        mean, std = found.mean, found.std
        inside = range(found.interval[0], found.interval[1] + 1) if found.interval else ()
        rows = [
            [
                str(tenth),
                quantity(mean[tenth]),
                quantity(std[tenth]),
                "#" * round(WIDTH * mean[tenth] / max(mean.max(), 1e-30)),
                "<" if tenth in inside else "",
            ]
            for tenth in range(len(mean))
        ]
        show(table(["tenth", "deviation", "over networks", "", "spike"], rows, right={0, 1, 2}))
        if found.interval is None:
            show("interval: none, the curve is flat: count all layers")
        else:
            first, last = found.interval
            show(f"interval: {first},{last} (pass it as --interval {first},{last})")
        groups = {name: group.interval for name, group in found.by_depth().items()}
        show("by depth: " + ", ".join(f"{name} {interval}" for name, interval in groups.items()))
        for name, reason in list(found.reasons.items())[:3]:
            show(f"left out: {name}: {reason}")
        if files:
            show(f"written: {', '.join(files)}")
    return 130 if found.interrupted else 0
