"""What the full runs cost, computed from multiply-accumulates: ``python -m recipes.autoformer.cost``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from jsonargparse import auto_cli

from lswag_hooks.spaces.autoformer_network import HEAD_DIM, AutoFormerSpec, macs, parameters
from lswag_hooks.wording import quantity
from recipes.autoformer.choices import largest, resolve_space
from recipes.autoformer.supernet import distinct
from recipes.common import finish

IMAGES = {"imagenet": 1_281_167, "cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257, "pets": 3_680}
TESTS = {"imagenet": 50_000, "cifar10": 10_000, "cifar100": 10_000, "svhn": 26_032, "pets": 3_669}
TOKENS, BYTES_A_PARAMETER = 197, 16


def kept_numbers(spec: AutoFormerSpec, tokens: int = TOKENS) -> int:
    """How many numbers an image leaves in the blocks for their backward pass.

    Of a token both norms' inputs and outputs, the queries twice, keys, values and what attention gives, the MLP before
    and after its activation; of a head a map of attention. So autograd keeps them, as a test finds.
    """
    return sum(tokens * (4 * spec.embed_dim + 5 * q + 2 * f + 4) + q // HEAD_DIM * tokens**2 for q, f in spec.blocks)


def cost(space: str = "autoformer_small", peak: float = 312e12, utilisation: float = 0.1, batch: int = 128) -> int:
    """Print GPU days and memory of each full run.

    GPU days = operations / (peak x utilisation x 86,400 s). Operations are two a multiply-accumulate; training does
    three times those of a forward pass: forward, and backward for activations and weights. Multiply-accumulates are the
    mean over 1,000 subnets drawn uniformly, relative positions included. AutoFormer's 24 GPU days for its own
    supernet would be a utilisation of 7.5 % of a V100's 125 T operations a second.

    Memory of a process = 16 bytes a weight of the supernet (weight, gradient, AdamW's two moments, in single
    precision) + batch x :func:`kept_numbers` of its largest subnet x 2 bytes. Reading images is left out.

    Args:
        space: of the supernet.
        peak: operations a second of a GPU; by default an A100's in bfloat16.
        utilisation: share of it that is reached.
        batch: images a process.
    """
    found = resolve_space(space)
    costs = [macs(found.parse(one)) for one in distinct(found, 1000, 0)]
    one = mean(costs)
    days = 1 / (peak * utilisation * 86_400)
    print(
        f"{space}: {quantity(one)} multiply-accumulates an image, the mean of 1,000 subnets of {quantity(min(costs))} "
        f"to {quantity(max(costs))}"
    )
    print(f"a GPU of {peak / 1e12:g} T operations/s, of which {100 * utilisation:g} % are reached")
    runs = {"supernet, 500 epochs": 500 * IMAGES["imagenet"], "retrain, 500 epochs": 500 * IMAGES["imagenet"]}
    runs |= {f"finetune on {name}, 1,000 epochs": 1000 * IMAGES[name] for name in IMAGES if name != "imagenet"}
    runs["search, 1,000 networks on 64 images"] = 64_000
    for name, images in runs.items():
        print(f"{name}: {6 * one * images:.3g} operations, {6 * one * images * days:.2g} GPU days")
    for name, number in TESTS.items():
        operations = 2 * one * number * 2000
        print(
            f"sample_benchmark, 2,000 subnets on {name}: {operations:.3g} operations, {operations * days:.2g} GPU days"
        )
    whole = largest(found)
    weights, activations = BYTES_A_PARAMETER * parameters(whole), 2 * batch * kept_numbers(whole)
    print(f"memory for {batch} images: {weights / 1e9:.2g} GB of weights, {activations / 1e9:.2g} GB of activations")
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return int(auto_cli(cost, as_positional=False, args=None if args is None else list(args)))


if __name__ == "__main__":
    finish(main)
