"""``lswag score``: score one model."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace
from torch import nn

from lswag_hooks.batch import Batch
from lswag_hooks.commands.common import SIZE, add_common, by, check_paths, load_batch, piped, size_of, write
from lswag_hooks.errors import InputError, LSWAGError, told
from lswag_hooks.memory import free_bytes
from lswag_hooks.models import build, expected_input_size, takes_pictures
from lswag_hooks.objective import resolve_objective
from lswag_hooks.proxies import resolve_proxies
from lswag_hooks.ranking import check_any, images_of, with_size
from lswag_hooks.report.table import console, profile_table, table
from lswag_hooks.scoring import score
from lswag_hooks.standings import Ranking, summarise
from lswag_hooks.verify import VerificationRow
from lswag_hooks.wording import named, quantity

MUCH = 1e9  # bytes


def add_score(parser: ArgumentParser) -> None:
    """Add the options of ``lswag score``."""
    parser.add_argument("model", metavar="MODEL", help="what to score; by default a detector on 8 pictures of shapes")
    add_common(parser, "the size that the model was made for, else 3,224,224")
    parser.set_defaults(data=None, samples=None)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the weights")
    parser.add_argument("--profile", action="store_true", help="print what was seen layer by layer")
    parser.add_argument("--verify", action="store_true", help="reconcile every layer's gradients with autograd")


def run_score(options: Namespace) -> int:
    """Score one model and show what was seen."""
    check_paths(options)
    proxies = resolve_proxies(options.proxies)
    keys = [proxy.key for proxy in proxies]
    pictures = takes_pictures(options.model)
    options.data = options.data or ("shapes" if pictures else "digits")
    options.samples = (8 if pictures else 64) if options.samples is None else options.samples
    batch, shared = load_batch(options, expected_input_size(options.model))
    classes = batch.num_classes if options.num_classes is None else options.num_classes
    model = build(
        options.model, num_classes=classes, seed=options.seed, image_size=images_of(batch), device=batch.device
    )
    if warned := foretold(model, batch):
        print(warned, file=sys.stderr)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lswag_hooks\.commands")  # the notes are printed
        try:
            result = score(model, batch, with_size(proxies), seed=options.seed, verify=options.verify, **shared)
        except Exception as error:
            if isinstance(error, LSWAGError) or ":" in options.model:  # of one's own: the traceback shows where
                raise
            raise InputError(
                f"{options.model} cannot be run on images {size_of(batch)} ({told(error)}): give it images of "
                f"its own size, {by(expected_input_size(options.model) or SIZE)}."
            ) from error
    check_any(result, keys)

    row = summarise(options.model, keys, {options.seed: result}, {}, result.seconds)
    better = {proxy.key: proxy.higher_is_better for proxy in proxies}
    as_table = Ranking([row], better, [options.seed])
    write(options, {"model": options.model, **result.to_dict()}, as_table)
    if piped(options):
        return 0
    show = console().print
    show(f"{options.model} on {len(batch)} samples of {batch.name}, {size_of(batch)}, seed {options.seed}")
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


def foretold(model: nn.Module, batch: Batch) -> str:
    """What a detector will take, where that is much: said before work starts."""
    tell = getattr(resolve_objective(model), "held_bytes", None)
    held = len(batch) * ((tell(model, batch) if tell else None) or 0)
    free = free_bytes(batch.device)
    if held < MUCH or free is None:
        return ""
    return f"backbone and neck hold {held / 1e9:.1f} GB of {len(batch)} pictures; {free / 1e9:.1f} GB are free"


def _verified(rows: Sequence[VerificationRow]) -> str:
    wrong = [f"{row.layer} ({max(row.sum_error, row.sample_error or 0.0):.1e})" for row in rows if not row.passed]
    empty = sum(row.vacuous for row in rows)
    said = f"verified: {len(rows) - len(wrong)} of {len(rows)} layers agree with autograd"
    said += f", {empty} of them with nothing but zeros to compare" if empty else ""
    return said + (f"; not {named(wrong)}" if wrong else "")
