"""Backbones compared at initialisation, beside the paper's AP: ``python -m recipes.burgerformer_coco.compare``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jsonargparse import auto_cli

from lswag_hooks import rank
from lswag_hooks.detection.coco import SCALE, coco_batch, load_coco
from lswag_hooks.detection.shapes import shapes_batch
from lswag_hooks.errors import InputError
from lswag_hooks.standings import Ranking
from lswag_hooks.wording import quantity
from recipes.burgerformer_coco.evaluate import PUBLISHED
from recipes.burgerformer_coco.space import resolve_backbone
from recipes.command import finish

KNOWN = {  # name in the table, spec, and box AP; the paper says nothing of ConvNeXt-T
    "ResNet-50": ("timm/resnet50", PUBLISHED["ResNet-50"][0]),
    "PoolFormer-S24": ("timm/poolformer_s24", PUBLISHED["PoolFormer"][0]),  # its authors' figure for S24 (sail-sg)
    "PoolFormer-S36": ("timm/poolformer_s36", 41.0),  # of its authors, with the same detector and schedule
    "Swin-T": ("timm/swin_tiny_patch4_window7_224", PUBLISHED["Swin-T"][0]),
    "ConvNeXt-T": ("timm/convnext_tiny", math.nan),
}
FOUND = "BurgerFormer"


def compare(
    out: str,
    data: str | None = None,
    found: str = "burgerformer/BurgerFormer-B",
    backbones: Sequence[str] = (),
    proxies: str = "lswag,lswag_robust,zico,swap,nwot",
    samples: int = 8,
    scale: tuple[int, int] = SCALE,
    init: str | None = "wake",
    seeds: int = 1,
    store: str | None = None,
) -> int:
    """Score backbones with a pyramid on the same pictures, and say whether the order is that of published AP.

    Args:
        out: the Markdown file to write; a CSV of everything stands beside it.
        data: COCO's folder; without it, pictures with shapes.
        found: the BurgerFormer that a search found, a spec or its YAML file. Its row has the AP of the
            paper's own, which is another network: which one was not published.
        backbones: specs to compare instead of the paper's, without the paper's AP.
        proxies: to compute; the first decides the order of the rows.
        samples: pictures.
        scale: longest and shortest side of the pictures at most.
        init: wake: zero gains at the start of residual branches, as timm's ResNets have them, are ones.
        seeds: draws of the weights.
        store: a file of finished scores; the same command goes on where it was stopped.

    Raises:
        InputError: an argument makes no sense, or the data is not there.
    """
    file = Path(out).expanduser()
    if not file.absolute().parent.is_dir():
        raise InputError(f"out={out}: there is no folder {file.parent}; make it first.")
    if data is None:
        batch = shapes_batch(samples, (max(scale), min(scale)), masks=False)
    else:
        batch = coco_batch(load_coco(data), samples, (scale[0], scale[1]), masks=False)
    wanted = {spec: spec for spec in backbones} or {name: spec for name, (spec, _) in KNOWN.items()}
    wanted["found" if backbones else FOUND] = resolve_backbone(found)
    ranking = rank(wanted, batch, proxies, seeds, role="backbone", init=init, store=store)
    text = written(ranking, len(batch), batch.name, scale)
    file.write_text(text, encoding="utf-8")
    ranking.to_csv(file.with_suffix(".csv"))
    print(text)
    return 0 if ranking.top() else 1


def published(name: str) -> float:
    """Box AP of a row with Mask R-CNN, 1x; NaN where none is known."""
    if name == FOUND:
        return PUBLISHED["BurgerFormer by L-SWAG"][0]
    return KNOWN[name][1] if name in KNOWN else math.nan


def written(ranking: Ranking, pictures: int, data: str, scale: Sequence[int]) -> str:
    """The table as Markdown, and what it says."""
    rows = [row for row in ranking.rows if row.rank is not None]
    sizes = {"params": [row.params for row in rows], "MACs": [row.flops for row in rows]}
    aps = [published(row.name) for row in rows]
    head = ["network", *ranking.proxies, *sizes, "memory (MB)", "AP box"]
    lines = [" | ".join(head).join(("| ", " |")), "|---|" + "---:|" * (len(head) - 1)]
    for row, ap in zip(rows, aps, strict=True):
        cells = [row.name, *(quantity(row.scores[key]) for key in ranking.proxies), quantity(row.params)]
        memory = row.facts.get("act_mb")
        cells += [quantity(row.flops), f"{memory:,.0f}" if memory else "-", f"{ap:.1f}" if ap == ap else "-"]
        lines.append(" | ".join(cells).join(("| ", " |")))
    lines += ["", f"{pictures} pictures of {data} at {max(scale)} x {min(scale)}, with a pyramid, before any training."]
    known = pd.Series(aps).notna()
    columns = {key: [row.scores[key] for row in rows] for key in ranking.proxies} | sizes
    if known.sum() >= 3:
        signs = {key: 1 if ranking.higher_is_better.get(key, True) else -1 for key in columns}
        agreement = {
            key: pd.Series(values)[known].mul(signs[key]).corr(pd.Series(aps)[known], method="spearman")
            for key, values in columns.items()
        }
        told = ", ".join(f"{key} {value:.2f}" for key, value in agreement.items())
        lines.append(f"Spearman correlation with published AP over {int(known.sum())} backbones: {told}.")
    lines += [f"Not scored: {row.name}: {row.reason}" for row in ranking.rows if row.rank is None]
    return "\n".join(lines) + "\n"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return int(auto_cli(compare, as_positional=False, args=None if args is None else list(args)))


if __name__ == "__main__":
    finish(main)
