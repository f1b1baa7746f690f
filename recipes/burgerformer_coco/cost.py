"""What the full run costs, computed from operations: ``python -m recipes.burgerformer_coco.cost``."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import auto_cli

from lswag_hooks.detection.pyramid import build_pyramid
from lswag_hooks.detection.survey import FULL, counted
from lswag_hooks.spaces.burgerformer import NAMED
from lswag_hooks.wording import quantity
from recipes.burgerformer_coco.space import PREFIX, BurgerBackbones, resolve_backbone
from recipes.command import finish

IMAGENET, TRAIN, VAL = 1_281_167, 117_266, 5_000  # pictures; of COCO's training set those with instances
PRETRAINING, EPOCHS = 310, 12
BYTES_A_PARAMETER = 16  # weight, gradient, AdamW's two moments, in single precision
HIDDEN, REGIONS, POSITIVE, TESTED = 1024, 512, 128, 1000


def head_macs(regions: int, masks: int, size: tuple[int, int] = FULL, classes: int = 80) -> float:
    """Multiply-accumulates of Mask R-CNN's heads on one picture, at most: all regions and masks there are.

    Proposal network: a 3 x 3 convolution and 15 outputs at every place of the five maps. Box head: 12,544 to 1,024 to
    1,024 to classes. Mask head: four 3 x 3 convolutions on 14 x 14, a doubling of the side, a mask a class.
    """
    places = sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in (4, 8, 16, 32, 64))
    proposals = places * (9 * 256 * 256 + 256 * 15)
    boxes = regions * (256 * 49 * HIDDEN + HIDDEN * HIDDEN + HIDDEN * (5 * classes + 1))
    each = 4 * 196 * 9 * 256 * 256 + 784 * 256 * 256 + 784 * 256 * classes
    return float(proposals + boxes + masks * each)


def cost(
    backbone: str = "burgerformer/BurgerFormer-B",
    evaluations: int = 3000,
    samples: int = 4,
    peak: float = 312e12,
    utilisation: float = 0.1,
    single_peak: float = 19.5e12,
) -> int:
    """Print GPU days and memory of each step.

    GPU days = operations / (peak x utilisation x 86,400 s). Operations are two a multiply-accumulate; training does
    three times those of a forward pass. Reading pictures is left out.

    Args:
        backbone: that is trained; its cost stands for those of the search too.
        evaluations: of the search.
        samples: pictures that the search scores on.
        peak: operations a second of a GPU for pretraining; by default an A100's in bfloat16.
        utilisation: share of a peak that is reached.
        single_peak: the same for detector and search, which are in single precision.
    """
    spec = resolve_backbone(backbone)
    pyramid = build_pyramid(spec)
    macs, activations = counted(pyramid)
    if macs is None or activations is None:
        print(f"{spec} cannot be counted without values")
        return 1
    heads = head_macs(REGIONS, POSITIVE)
    days = 1 / (utilisation * 86_400)
    precision = f"{single_peak / 1e12:g} in single precision"
    print(f"a GPU of {peak / 1e12:g} T operations/s, {precision}; {utilisation:.0%} reached")
    print(f"backbone and pyramid, 1333 x 800: {quantity(macs)} multiply-accumulates; heads: {quantity(heads)}")
    if spec.startswith(PREFIX):
        name = spec.removeprefix(PREFIX)
        one = BurgerBackbones().cost(NAMED.get(name, name))
        pretraining = 6 * one.macs * IMAGENET * PRETRAINING
        print(f"pretrain, {PRETRAINING} epochs: {pretraining:.3g} operations, {pretraining / peak * days:.2g} GPU days")
    search = 6 * macs * evaluations * samples
    print(
        f"search, {evaluations:,} backbones on {samples} pictures: {search:.3g} operations, "
        f"{search / single_peak * days:.2g} GPU days, and as much again for gradients of single pictures"
    )
    training = 6 * (macs + heads) * TRAIN * EPOCHS
    print(f"detect, {EPOCHS} epochs: {training:.3g} operations, {training / single_peak * days:.2g} GPU days")
    testing = 2 * (macs + head_macs(TESTED, 100)) * VAL
    print(f"evaluate: {testing:.3g} operations, {testing / single_peak * days:.2g} GPU days")
    weights = BYTES_A_PARAMETER * (
        sum(parameter.numel() for parameter in pyramid.parameters()) + 20e6
    )  # heads: 20 M, the box head's first layer above all
    print(
        f"memory of search: {samples * activations / 1e9:.2g} GB kept of {samples} pictures, up to 1.7 times that "
        "where some are upright and others wide; a score may take 60 % of what is free"
    )
    print(
        f"memory of detect with 2 pictures a GPU: {weights / 1e9:.2g} GB of weights, {2 * activations / 1e9:.2g} GB "
        "kept by backbone and pyramid; the heads' come on top"
    )
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return int(auto_cli(cost, as_positional=False, args=None if args is None else list(args)))


if __name__ == "__main__":
    finish(main)
