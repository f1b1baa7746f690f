"""Prune a DARTS supernet by L-SWAG, LIBRA or any proxies: ``python -m recipes.darts.search --help``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lswag_hooks.batch import Batch
from lswag_hooks.ensembles import Libra
from lswag_hooks.errors import InputError
from lswag_hooks.ranking import check_device
from lswag_hooks.search import Pruning, SearchResult, search
from lswag_hooks.spaces.darts_supernet import Supernet
from recipes.common import finish
from recipes.data import ImageData

CONFIG = Path(__file__).parent / "configs" / "search_cifar10.yaml"


def parser() -> ArgumentParser:
    """The command line; its defaults are those of ``configs/search_cifar10.yaml``."""
    made = ArgumentParser(prog="python -m recipes.darts.search", default_config_files=[str(CONFIG)])
    made.add_argument("--config", action="config", help="a YAML file with any of these options")
    made.add_subclass_arguments(ImageData, "data", required=True)
    add = made.add_argument
    add("--proxies", type=str, default="lswag", help="see `lswag proxies`; of several the ranks are added")
    add("--libra", type=str | None, default=None, help="a fitted LIBRA or the name of one, instead of --proxies")
    add("--task", type=str, default="cifar10", help="cifar10 or imagenet: what the genotype is for")
    add("--samples", type=int, default=64, help="how many training images a supernet sees")
    add("--supernet", type=Supernet, default=Supernet(), help="its size; by default TE-NAS's")
    add("--operations", type=int, default=3, help="how many an edge loses in a round")
    add("--repeats", type=int, default=3, help="draws of the weights")
    add("--seed", type=int, default=0, help="of the weights")
    add("--device", type=str, default="cpu", help="cpu, cuda, mps")
    add("--workers", type=int, default=1, help="processes that score")
    add("--out", type=str, default="runs", help="folder of genotype.yaml, search.json and finished scores")
    add("--progress", type=bool, default=True, help="show a progress bar")
    return made


def main(args: Sequence[str] | None = None) -> int:
    """Search, and write ``genotype.yaml`` and ``search.json``; the same command goes on where it was stopped.

    Returns:
        The exit status: 0; 130 after Ctrl-C.
    """
    options = parser()
    config = options.parse_args(args if args is None else list(args))
    made = getattr(options, "instantiate", options.instantiate_classes)(config)  # its name since jsonargparse 4.49
    check_device(config.device)
    data: ImageData = made.data
    data.setup("fit")
    seen = len(data.parts["train"])  # type: ignore[arg-type]
    if not 2 <= config.samples <= seen:
        raise InputError(f"--samples {config.samples}: give 2 or more, and not more than the {seen} training images.")
    batch = Batch.from_dataloader(data.train_dataloader(), config.samples, type(data).__name__).to(config.device)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    found = search(
        "darts",
        batch,
        config.proxies if config.libra is None else Libra.load(config.libra),
        algorithm=Pruning(made.supernet, config.operations, config.repeats),
        seed=config.seed,
        task=config.task,
        num_classes=data.num_classes,
        store=out / "scores.db",
        workers=config.workers,
        progress=config.progress,
    )
    if found.interrupted:
        print(f"stopped after {found.evaluations} supernets: the same command goes on")
        return 130
    found.to_yaml(out / "genotype.yaml", 1)
    summary = summarised(found, config.libra, config.device)
    (out / "search.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(f"{found.evaluations} scores in {found.seconds:.1f} s: {found.best}")
    print(f"in {out / 'genotype.yaml'}")
    return 0


def summarised(found: SearchResult, libra: str | None, device: str) -> dict[str, Any]:
    """What the table needs to know of a search."""
    return {
        "kind": "search",
        "genotype": found.best,
        "method": "LIBRA" if libra else "+".join(proxy.key for proxy in found.seen.objective.proxies),
        "approach": "TF",
        "seconds": found.seconds,
        "reused": found.reused,
        "device": device,
        "settings": json.loads(json.dumps(found.settings, default=str)),
    }


if __name__ == "__main__":
    finish(main)
