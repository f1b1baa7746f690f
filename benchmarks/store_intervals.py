"""The intervals that come with the package: where along the depth of each space's networks gradients spike.

    python benchmarks/store_intervals.py DATA --out OUT                   # all spaces: an hour on one core; resumable
    python benchmarks/store_intervals.py DATA --out OUT nasbench101       # some

DATA holds ``images/``. Writes ``lswag_hooks/data/intervals.json``, beside what it holds of other spaces.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import warnings

import torch

import lswag_hooks as lh
from lswag_hooks.profiling import gradient_curves

CIFAR, IMAGENET = "images/cifar10_png_sample.npz", "images/imagenet_224_64.npz"
FILE = pathlib.Path(__file__).parent.parent / "lswag_hooks" / "data" / "intervals.json"
SPACES = {  # networks, images, samples, side
    "nasbench201": (300, CIFAR, 32, 32),
    "nasbench101": (100, CIFAR, 16, 32),
    "darts": (100, CIFAR, 8, 32),
    "transnasbench_micro": (100, IMAGENET, 8, 64),
    "transnasbench_macro": (100, IMAGENET, 8, 64),
    "autoformer_tiny": (100, IMAGENET, 8, 224),
    "autoformer_small": (40, IMAGENET, 8, 224),
    "autoformer_base": (30, IMAGENET, 8, 224),
    "burgerformer": (40, IMAGENET, 8, 224),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("spaces", nargs="*", default=list(SPACES))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in options.spaces:
        networks, images, samples, side = SPACES[name]
        batch = lh.Batch.from_npz(options.data / images, samples=samples, size=(3, side, side))
        found = gradient_curves(name, batch, networks, store=options.out / f"profile-{name}.db")
        if found.interrupted:
            break
        stored = json.loads(FILE.read_text())
        stored[name] = {
            **{key: value for key, value in found.to_dict().items() if key not in ("missing", "interrupted")},
            "command": f"python benchmarks/store_intervals.py DATA --out OUT {name}",
        }
        FILE.write_text(json.dumps(stored, indent=1) + "\n")
        print(
            f"{name}: {found.interval} of {len(found.curves)} networks; by depth "
            f"{ {depth: one.interval for depth, one in found.by_depth().items()} }",
            flush=True,
        )
