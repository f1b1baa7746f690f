"""COCO's average precision of a detector, and the paper's table: ``python -m recipes.burgerformer_coco.evaluate``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import auto_cli

from lswag_hooks.detection.coco import read_coco
from lswag_hooks.detection.compat import readable_checkpoints
from lswag_hooks.detection.configs import load_config
from lswag_hooks.errors import InputError
from recipes.burgerformer_coco.detect import LATEST, config_of
from recipes.burgerformer_coco.detector import joined_processes, make_runner
from recipes.command import finish

COLUMNS = ("AP box", "AP50 box", "AP75 box", "AP mask", "AP50 mask", "AP75 mask")
KEYS = tuple(f"coco/{kind}_mAP{at}" for kind in ("bbox", "segm") for at in ("", "_50", "_75"))
PUBLISHED = {  # on COCO's val2017, Mask R-CNN 1x: Casarin et al., CVPR 2025
    "ResNet-50": (38.0, 58.6, 41.4, 34.4, 55.1, 36.7),
    "PoolFormer": (40.1, 62.2, 43.4, 37.0, 59.1, 36.9),
    "Swin-T": (43.7, 66.6, 47.7, 39.8, 63.3, 42.7),
    "BurgerFormer by xi-GSNR": (45.0, 67.1, 49.1, 40.7, 68.8, 43.7),
    "BurgerFormer by L-SWAG": (47.5, 71.4, 50.3, 41.4, 69.7, 44.2),
}


def evaluate(run: str, name: str = "this run", checkpoint: str | None = None, pictures: int = 20) -> int:
    """Evaluate a trained detector and write ``result.json``, ``table.md`` and detections on pictures into its folder.

    Args:
        run: the folder that ``detect`` wrote; its config says what the detector is and where the pictures are.
        name: of the row in the table.
        checkpoint: by default the run's latest.
        pictures: of how many pictures detections are drawn.

    Raises:
        InputError: there is no run or no checkpoint.
    """
    folder = Path(run).expanduser()
    if checkpoint is None:
        if not (folder / LATEST).is_file():
            raise InputError(f"run={run} holds no checkpoint: run detect first.")
        checkpoint = (folder / LATEST).read_text(encoding="utf-8").strip()
    if not Path(checkpoint).is_file():
        raise InputError(f"there is no checkpoint {checkpoint}.")
    config = load_config(config_of(folder))
    config.work_dir = str(folder)
    config.model.backbone.checkpoint = None  # what was trained is in the checkpoint
    coco = read_coco(config.test_evaluator.ann_file, config.test_dataloader.dataset.data_prefix.img)
    number = len(coco.content["images"])
    config.default_hooks.visualization.update(
        draw=pictures > 0, interval=max(1, number // max(1, pictures)), score_thr=0.3, test_out_dir="pictures"
    )
    with readable_checkpoints(), joined_processes():
        runner = make_runner(config, checkpoint=checkpoint)
        found = runner.test()
    result = {key: float(found[key]) for key in KEYS}
    drawn = folder / runner.timestamp / "pictures"
    (folder / "result.json").write_text(
        json.dumps({"name": name, "checkpoint": checkpoint, **result, "pictures": str(drawn)}, indent=2) + "\n"
    )
    row = [100 * result[key] for key in KEYS]
    text = table({name: row})
    (folder / "table.md").write_text(text)
    print(text)
    print(f"box AP {row[0]:.1f}, mask AP {row[3]:.1f}, table in {folder / 'table.md'}, pictures in {drawn}")
    return 0


def table(rows: Mapping[str, Sequence[float]]) -> str:
    """Rows beside the paper's, as Markdown.

    Example:
        >>> print(table({"mine": (40, 60, 42.25, 35, 55, 36)}).splitlines()[2])
        | mine | 40.0 | 60.0 | 42.2 | 35.0 | 55.0 | 36.0 |
    """
    lines = [f"| backbone | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    published = {f"{name} (paper)": values for name, values in PUBLISHED.items()}
    for name, values in {**rows, **published}.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")
    return "\n".join(lines) + "\n"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return int(auto_cli(evaluate, as_positional=False, args=None if args is None else list(args)))


if __name__ == "__main__":
    finish(main)
