"""How well proxies put networks of known accuracy in order, over all tables of a data folder.

    python benchmarks/correlations.py DATA --out OUT                 # everything: hours; stop and go on at will
    python benchmarks/correlations.py DATA --out OUT nb201 nb301     # some
    python benchmarks/correlations.py DATA --out OUT nb201 --every --architectures 200   # all proxies, fewer networks

DATA holds ``benchmarks/`` (tables of NAS-Bench-Suite-Zero), ``vit/`` (AutoFormer accuracies), ``timm/``, ``images/``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch

import lswag_hooks as lh
from lswag_hooks.agreement import BASELINES, Agreement
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.correlating import correlate
from lswag_hooks.measured import figures_of
from lswag_hooks.proxies import proxy_class
from lswag_hooks.spaces import Space
from lswag_hooks.spaces.autoformer import AutoFormerSpace, network, parse

REPEATS = {"singles", "draws", "ntk", "graph"}  # passes of a sample, a mini-batch or a layer each
PLAIN = ("lswag", "lswag_robust", "zico", "swap", "nwot")
CIFAR, IMAGENET = "images/cifar10_png_sample.npz", "images/imagenet_224_64.npz"


class HyTAS(AutoFormerSpace):
    """Small transformers of HyTAS: trained on hyperspectral images, scored here on natural ones of 64 px instead."""

    name = "hytas"
    tasks: ClassVar = {"indian": 16, "houston": 15}
    image_shapes: ClassVar = dict.fromkeys(tasks, (3, 64, 64))

    def parse(self, architecture):
        return parse(architecture)

    def make(self, architecture, num_classes, task, image_shape):
        return network(architecture, num_classes, image_shape[-2:], patch_size=8)


@dataclass(frozen=True)
class Experiment:
    """One column of the table."""

    space: str | Space
    table: str
    task: str
    architectures: int
    images: str
    samples: int
    side: int | None = None
    init: str | None = None
    num_classes: int | None = None


def transnas(which: str, task: str, architectures: int = 100, side: int = 64, samples: int = 8) -> Experiment:
    table = f"benchmarks/transbench101_{which}.csv.gz"
    return Experiment(f"transnasbench_{which}", table, task, architectures, IMAGENET, samples, side)


EXPERIMENTS = {
    "nb201": Experiment("nasbench201", "benchmarks/nasbench201.csv.gz", "cifar10", 1000, CIFAR, 64),
    "nb101": Experiment("nasbench101", "benchmarks/nasbench101.csv.gz", "cifar10", 200, CIFAR, 16),
    "nb301": Experiment("darts", "benchmarks/nasbench301.csv.gz", "cifar10", 200, CIFAR, 16),
    "micro-object": transnas("micro", "class_object"),
    "micro-jigsaw": transnas("micro", "jigsaw", side=128),
    "micro-autoencoder": transnas("micro", "autoencoder"),
    "micro-segment": transnas("micro", "segmentsemantic"),
    "macro-autoencoder": transnas("macro", "autoencoder"),
    "macro-jigsaw": transnas("macro", "jigsaw", side=128),
    "macro-normal": transnas("macro", "normal"),
    "autoformer": Experiment(
        "autoformer_tiny",
        "vit/autoformer_tiny_imagenet.csv",
        "imagenet_top1_inherited",
        300,
        IMAGENET,
        8,
        num_classes=1000,
    ),
    "autoprox": Experiment(
        "autoformer_tiny", "vit/autoprox_autoformer_tiny.csv", "c100_kd_acc", 200, IMAGENET, 8, num_classes=1000
    ),
    "hytas-indian": Experiment(HyTAS(), "vit/hytas_hyperspectral.csv.gz", "indian", 200, CIFAR, 16, 64),
    "hytas-houston": Experiment(HyTAS(), "vit/hytas_hyperspectral.csv.gz", "houston", 200, CIFAR, 16, 64),
    "timm": Experiment("timm", "timm/timm_imagenet1k.csv", "imagenet1k_max", 0, IMAGENET, 8, 224, "wake", 1000),
}


def about(name: str) -> dict[str, object]:
    """What stands beside stored figures."""
    one = EXPERIMENTS[name]
    space = one.space if isinstance(one.space, str) else one.space.name
    side = 32 if one.images == CIFAR and one.side is None else one.side or 224
    source = "CIFAR-10" if one.images == CIFAR else "ImageNet"
    return {
        "what": f"{space}, {one.task}",
        "batch": f"{one.samples} {source} images of {side} px",
        "table": one.table,
        "init": one.init or "as built",
        "version": lh.__version__,
        "command": f"python benchmarks/correlations.py DATA {name} --out OUT --save lswag_hooks/data/measured.json",
    }


def every() -> list[str]:
    """Proxies whose cost is a fixed number of passes, but for the one that needs constants of a space."""
    names = (name for name in lh.list_proxies() if not proxy_class(name).needs & REPEATS)
    return [name for name in names if name not in (*BASELINES, "reg_swap")]


def merged(stored: dict | None, fresh: dict) -> dict:
    """Figures of one table; those of proxies that were measured on fewer networks only say on how many."""
    if stored is None or fresh["networks"] >= stored["networks"]:
        return fresh | {"proxies": (stored or {"proxies": {}})["proxies"] | fresh["proxies"]}
    fewer = {name: found | {"networks": fresh["networks"]} for name, found in fresh["proxies"].items()}
    measured_on_all = {name: found for name, found in stored["proxies"].items() if "networks" not in found}
    return stored | {"proxies": stored["proxies"] | fewer | measured_on_all}


def proxies(variants: bool, whole: bool = False) -> list:
    asked = every() if whole else list(PLAIN)
    if variants:
        for pairing in ("percentile", "feeding", "total"):
            asked.append(lh.LSWAG(pairing=pairing, label=f"lswag {pairing}"))
        for tenth in range(10):
            asked.append(lh.LSWAG(interval=(tenth, tenth), label=f"lswag tenth {tenth}"))
        for mean in (True, False):
            for tau in (0.03, 0.1, 0.3):
                asked.append(lh.LSWAGRobust(tau=tau, mean=mean, label=f"robust {'mean ' * mean}{tau:g}"))
    return asked


def run(name: str, data: pathlib.Path, out: pathlib.Path, asked: list, architectures: int | None) -> Agreement:
    one = EXPERIMENTS[name]
    torch.set_num_threads(1)
    size = None if one.side is None else (3, one.side, one.side)
    batch = lh.Batch.from_npz(data / one.images, samples=one.samples, size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return correlate(
            one.space,
            batch,
            asked,
            benchmark=Benchmark.load(data / one.table),
            task=one.task,
            architectures=one.architectures if architectures is None else architectures,
            num_classes=one.num_classes,
            init=one.init,
            store=out / f"{name}.db",
        )


def markdown(found: dict[str, Agreement]) -> str:
    names = list(dict.fromkeys(name for one in found.values() for name in one.estimates))
    names = [name for name in names if name not in BASELINES] + [*BASELINES]
    lines = ["| | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    lines.append("| networks | " + " | ".join(str(len(one.complete)) for one in found.values()) + " |")
    for name in names:
        cells = [_cell(one, name) for one in found.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(one: Agreement, name: str) -> str:
    if name not in one.estimates:
        return ""
    rho, given = one.estimates[name]["spearman"], one.estimates[name].get("partial")
    if rho.value != rho.value:
        return ""
    half = (rho.high - rho.low) / 2
    return f"{rho.value:.3f} ± {half:.2f}" + (
        f" ({given.value:+.2f})" if given is not None and given.value == given.value else ""
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--architectures", type=int)
    parser.add_argument("--variants", action="store_true", help="other pairings and other forms of lswag_robust too")
    parser.add_argument("--every", action="store_true", help="all proxies that need no repeated passes")
    parser.add_argument("--save", type=pathlib.Path, help="put the figures into this JSON file, beside what it has")
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found, asked = {}, proxies(options.variants, options.every)
    kept = every() if options.every else PLAIN
    for name in options.names:
        found[name] = run(name, options.data, options.out, asked, options.architectures)
        found[name].save(options.out / name)
        print(markdown({name: found[name]}), flush=True)
        for remark in found[name].remarks():
            print(remark, flush=True)
        if options.save:
            stored = json.loads(options.save.read_text()) if options.save.exists() else {}
            stored[name] = merged(stored.get(name), figures_of(found[name], kept, about(name)))
            options.save.write_text(json.dumps(stored, indent=1) + "\n")
        if found[name].interrupted:  # in random order: those that were done are a fair sample
            break
    print(markdown(found))
