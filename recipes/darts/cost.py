"""What the full runs cost, from operations: ``python -m recipes.darts.cost --help``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from lswag_hooks.errors import InputError
from lswag_hooks.hooks.kept import kept_bytes
from lswag_hooks.search import Pruning
from lswag_hooks.spaces.counting import piece_cost
from lswag_hooks.spaces.darts import network, network_cost
from lswag_hooks.spaces.darts_network import AuxiliaryHead, Stem
from recipes.common import finish
from recipes.darts.genotypes import read_genotype

DAY = 86_400
BACKWARD = 2  # passes forward that a backward pass costs: gradients of inputs, and of weights
COPIES = 3  # weights, gradients, momentum
BYTES = 4


@dataclass(frozen=True)
class Setting:
    """A full run."""

    channels: int
    layers: int
    classes: int
    stem: Stem
    side: int
    images: int
    tests: int
    epochs: int
    batch: int


SETTINGS = {
    "cifar10": Setting(36, 20, 10, "cifar", 32, 50_000, 10_000, 600, 96),
    "imagenet": Setting(48, 14, 1000, "imagenet", 224, 1_281_167, 50_000, 250, 1024),
}
SEARCHES = {"cifar10": Pruning(), "imagenet": Pruning(operations=2)}  # as in configs/
GENOTYPE = {"cifar10": "TE_NAS_CIFAR", "imagenet": "TE_NAS_IMAGENET"}


@dataclass(frozen=True)
class Estimate:
    """Of a full run.

    Attributes:
        macs: multiply-accumulates of one image forward, with the auxiliary head.
        flops: of the whole run.
        days: on one GPU.
        activations: bytes that autograd keeps for one image.
        params: numbers that are trained.
        memory: bytes for a batch.
    """

    macs: int
    flops: float
    days: float
    activations: int
    params: int
    memory: int


def estimate(genotype: str, setting: Setting, tflops: float, utilisation: float) -> Estimate:
    """Days and memory of a full run.

    FLOPs = 2 · MACs · (3 · training images + test images) · epochs: a multiply-accumulate is two operations, a backward
    pass costs two forward ones, and every epoch ends with the test images. Days = FLOPs / (peak · utilisation).
    Memory = what autograd keeps for a batch, in float32, + 3 · weights (with gradients and momentum). Left out: the
    libraries' work space, fragmentation, reading of images.

    Raises:
        InputError: no positive speed.
    """
    if tflops <= 0 or not 0 < utilisation <= 1:
        raise InputError(f"--tflops {tflops} --utilisation {utilisation}: give a peak above 0 and a share up to 1.")
    macs = forward_macs(genotype, setting)
    with torch.device("meta"):
        net = network(genotype, setting.channels, setting.layers, setting.classes, auxiliary=True, stem=setting.stem)
        activations = kept_bytes(net, torch.empty(2, 3, setting.side, setting.side)) // 2
    flops = 2.0 * macs * ((1 + BACKWARD) * setting.images + setting.tests) * setting.epochs
    params = sum(one.numel() for one in net.parameters())
    memory = setting.batch * activations + COPIES * BYTES * params
    return Estimate(macs, flops, flops / (tflops * 1e12 * utilisation) / DAY, activations, params, memory)


def forward_macs(genotype: str, setting: Setting) -> int:
    """Multiply-accumulates of one image, with the auxiliary head.

    Example:
        >>> forward_macs(read_genotype("DARTS_V2"), SETTINGS["cifar10"]) - 528_359_040  # as published, without it
        695808
    """
    sizes = (setting.channels, setting.layers, setting.classes)
    macs = network_cost(genotype, (3, setting.side, setting.side), *sizes, stem=setting.stem).macs
    channels = 4 * setting.channels * 4  # after both reductions, of four nodes
    side = setting.side // 4 if setting.stem == "cifar" else setting.side // 32
    return macs + piece_cost(AuxiliaryHead, (channels, setting.classes, setting.stem), (channels, side, side)).macs


def search_flops(pruning: Pruning, images: int = 64, side: int = 32) -> float:
    """Operations of a search, at most: as if every supernet were the whole one.

    FLOPs = 2 · MACs · 3 · images · supernets.

    Example:
        >>> f"{search_flops(Pruning()):.1e}"
        '9.3e+11'
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        pruning.supernet.build()(torch.empty(2, 3, side, side))
    return float(counter.get_total_flops()) / 2 * (1 + BACKWARD) * images * pruning.supernets


def main(args: Sequence[str] | None = None) -> int:
    """Print days and memory of both searches and full runs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.darts.cost", description=__doc__)
    add = parser.add_argument
    add("--genotype", help="a string, search's YAML file, or a published one's name; by default TE-NAS's two")
    add("--tflops", type=float, default=15.7, help="peak of the GPU in float32; 15.7: V100")
    add("--utilisation", type=float, default=0.075, help="share of it that is reached")
    add("--batch", type=int, help="images of one GPU at a time; by default the whole batch")
    options = parser.parse_args(args)
    for name, pruning in SEARCHES.items():
        flops = search_flops(pruning)
        days = flops / (options.tflops * 1e12 * options.utilisation) / DAY
        print(
            f"{name}: search, {pruning.supernets:,} supernets on 64 images: at most {flops:.1e} FLOPs, "
            f"{days:.0e} GPU days of arithmetic"
        )
    for name, full in SETTINGS.items():
        setting = dataclasses.replace(full, batch=options.batch or full.batch)
        genotype = read_genotype(options.genotype or GENOTYPE[name])
        found = estimate(genotype, setting, options.tflops, options.utilisation)
        print(
            f"{name}: {found.macs / 1e6:.0f} M multiply-accumulates an image, {found.flops:.2e} FLOPs in "
            f"{setting.epochs} epochs: {found.days:.1f} GPU days at {options.tflops:g} TFLOP/s · "
            f"{options.utilisation:g}; {found.memory / 2**30:.1f} GiB for {setting.batch} images "
            f"({found.activations / 2**20:.1f} MiB each), half of that with bf16-mixed"
        )
    return 0


if __name__ == "__main__":
    finish(main)
