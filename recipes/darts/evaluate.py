"""Test a trained DARTS network: ``python -m recipes.darts.evaluate --help``."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.darts import network_cost
from recipes.common import KEY, RecipeCLI, check_one_process, finish
from recipes.darts.training import DARTSTraining

CONFIG = Path(__file__).parent / "configs" / "evaluate_cifar10.yaml"
SIDES = {"cifar": 32, "imagenet": 224}  # of the images for which operations are counted


class DARTSEvaluation(DARTSTraining):
    """The network of a checkpoint, with its weights.

    Args:
        checkpoint: that training wrote.

    Raises:
        InputError: there is none, it cannot be read, or it is none of this recipe.
    """

    def __init__(self, checkpoint: str) -> None:
        content = read_checkpoint(checkpoint)
        self.saved: dict[str, Any] = content[KEY]
        described = dict(self.saved["network"])
        described["auxiliary"] = float(described["auxiliary"])
        super().__init__(**described)
        try:
            self.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            raise InputError(
                f"{checkpoint}: its weights are not those of the network it names. {' '.join(str(error).split())[:300]}"
            ) from None


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint of this recipe; nothing in it is run.

    Raises:
        InputError: there is none, or it is another's.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there is no checkpoint {path}.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} cannot be read as a checkpoint: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict) or "genotype" not in content.get(KEY, {}).get("network", {}):
        raise InputError(f"{path} is no checkpoint of recipes.darts.")
    found: dict[str, Any] = content
    return found


def main(args: Sequence[str] | None = None) -> int:
    """Test, print, and write ``result.json``; returns the exit status."""
    cli = RecipeCLI(DARTSEvaluation, CONFIG, None if args is None else list(args), link_classes=False)
    module, data = cli.model, cli.datamodule
    check_one_process(cli.trainer)
    trained, here = module.saved["data"].get("transforms", ""), data.settings()["transforms"]
    if trained.partition("test=")[2] != here.partition("test=")[2]:
        print("note: images come in another form here than in validation while training: check data.transforms")
    (found,) = cli.trainer.test(module, cli.datamodule, verbose=False)
    described = module.described
    side = SIDES[described["stem"]]
    sizes = {name: described[name] for name in ("channels", "layers", "num_classes", "stem")}
    cost = network_cost(described["genotype"], (3, side, side), **sizes)
    result = {
        "kind": "result",
        "data": type(data).__name__,
        "fake": data.fake,
        "genotype": described["genotype"],
        **sizes,
        "params": cost.params,
        "macs": cost.macs,
        "images": len(data.parts["test"]),
        "error": 100 * (1 - found["test_acc"]),
        "error5": 100 * (1 - found["test_acc5"]),
        "epochs": module.saved["training"]["epochs"],
        "checkpoint": module.saved["training"],
    }
    out = Path(cli.config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(
        f"test error {result['error']:.2f} % (top-5 {result['error5']:.2f} %) on {result['images']} images, "
        f"{cost.params / 1e6:.2f} M parameters, in {out / 'result.json'}"
    )
    return 0


if __name__ == "__main__":
    finish(main)
