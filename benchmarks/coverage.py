"""What of real models the hooks cover, reconciled weight by weight with autograd.

    python benchmarks/coverage.py                      # every model of coverage_models.txt (half an hour)
    python benchmarks/coverage.py timm/resnet18 ...    # some
    python benchmarks/coverage.py --csv coverage.csv   # append, and skip what is there already

Parameters that start at exactly zero are nudged first, or the reconciliation would be vacuous. Activations are counted
against what the dispatcher really ran.
"""

from __future__ import annotations

import argparse
import csv
import gc
import pathlib
import time
import warnings
from collections import Counter

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers_cases import CASES
from transformers_cases import case as transformers_case

import lswag_hooks as lh
from lswag_hooks.hooks.activations import ActivationCapture
from lswag_hooks.hooks.calls import CallStack
from lswag_hooks.models import expected_input_size
from lswag_hooks.objective import resolve_objective
from lswag_hooks.verify import verify_gradients

HERE = pathlib.Path(__file__).parent
RELU_GELU = {"relu", "relu_", "gelu", "gelu_"}
UNREACHED = "the loss does not reach it"
LIMIT = 120_000_000  # parameters


class Dispatched(TorchDispatchMode):
    """Counts the ReLU and GELU operations that really run, outside modules that are activations as a whole."""

    def __init__(self, capture: ActivationCapture) -> None:
        super().__init__()
        self.capture, self.calls = capture, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name in RELU_GELU and not self.capture._inside:
            self.calls[name.rstrip("_")] += 1
        return function(*args, **(kwargs or {}))


class SegmentationLoss:
    is_objective, reduction = True, "mean"

    def __call__(self, model, batch):
        return nn.functional.cross_entropy(model(batch.inputs)["out"], batch.targets)


class DetectionLoss:
    is_objective, reduction = True, "mean"

    def __call__(self, model, batch):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        torch.manual_seed(0)  # detectors draw which proposals to train on
        return sum(model(list(batch.inputs), [dict(target) for target in batch.targets]).values())


def nudge(model: nn.Module) -> None:
    """Random values for whatever starts at exactly zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def case(spec: str, kind: str):
    """Model, batch and loss."""
    library, name = spec.split("/")
    if library == "transformers":
        return transformers_case(name)
    generator = torch.Generator().manual_seed(0)
    if kind == "detection":
        import torchvision

        small = {} if name.startswith("ssd") else {"min_size": 256, "max_size": 320}
        builder = getattr(torchvision.models.detection, name)
        model = builder(weights=None, weights_backbone=None, num_classes=5, **small)
        images = tuple(torch.rand(3, 256, 320, generator=generator) for _ in range(2))
        targets = []
        for n in (2, 3):
            corner = torch.rand(n, 2, generator=generator) * 100
            target = {"boxes": torch.cat([corner, corner + 60 + 60 * torch.rand(n, 2, generator=generator)], 1)}
            target["labels"] = torch.randint(1, 2 if "keypoint" in name else 5, (n,), generator=generator)
            if "mask" in name:
                target["masks"] = (torch.rand(n, 256, 320, generator=generator) > 0.5).to(torch.uint8)
            if "keypoint" in name:
                points = torch.rand(n, 17, 3, generator=generator) * 50 + corner[:, None].mean()
                points[..., 2] = 1
                target["keypoints"] = points
            targets.append(target)
        return model, lh.Batch(images, tuple(targets)), DetectionLoss()
    model = lh.build(spec, num_classes=10)
    if sum(parameter.numel() for parameter in model.parameters()) > LIMIT:
        raise MemoryError("too large for this benchmark")
    if kind == "segmentation":
        return (
            model,
            lh.Batch(torch.randn(2, 3, 96, 96, generator=generator), torch.randint(0, 10, (2, 96, 96))),
            SegmentationLoss(),
        )
    size = expected_input_size(model) or (3, 224, 224)
    fixed = (
        library == "torchvision"
        or getattr(model, "pretrained_cfg", {}).get("fixed_input_size")
        or hasattr(model, "pos_embed")
    )
    if not fixed:
        size = (size[0], *(max(128, min(s, 128)) for s in size[1:]))
    minimum = (getattr(model, "pretrained_cfg", None) or {}).get("min_input_size")
    if minimum:
        size = tuple(max(a, b) for a, b in zip(size, minimum, strict=True))
    if "inception" in name or "nasnet" in name:
        size = (3, 299, 299)
    return model, lh.Batch(torch.randn(2, *size, generator=generator), torch.tensor([1, 3])), None


def measure(spec: str, kind: str) -> dict[str, object]:
    """One row of the table."""
    row: dict[str, object] = {"model": spec, "status": "ok"}
    start = time.perf_counter()
    try:
        model, batch, loss = case(spec, kind)
    except MemoryError as error:
        return {**row, "status": f"skipped: {error}"}
    nudge(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = lh.score(model, batch, ["lswag"], loss=loss, mode="eval")
            coverage = result.coverage
            objective = resolve_objective(model, loss)
            rows = verify_gradients(model, batch, objective, mode="eval", single=kind == "")
            if not all(row.passed for row in rows) and kind == "":  # rounding, or wrong? double precision tells
                model, batch = model.double(), batch.to("cpu", torch.float64)
                rows = verify_gradients(model, batch, objective, mode="eval")
            with lh.ProbeSession(model, "eval", seed=0), torch.no_grad(), CallStack(model) as stack:
                seen: Counter[str] = Counter()
                capture = ActivationCapture(stack, lambda call, output: seen.update([call.function.rstrip("_")]))
                with capture, Dispatched(capture) as dispatched:
                    objective(model, batch)
    except Exception as error:
        return {**row, "status": f"failed: {type(error).__name__}: {error}"[:200]}
    missed = sum(max(0, n - seen[name]) for name, n in dispatched.calls.items())
    failed = [r.layer for r in rows if not r.passed]
    # heads that serve training alone are not run; what is run must be covered
    missing = {k: v for k, v in coverage.uncovered.items() if v != UNREACHED}
    return {
        **row,
        "params_M": round(result.parameters / 1e6, 2),
        "weights": coverage.weights_total,
        "weight_coverage": round(coverage.weight_share, 6),
        "unreached": len(coverage.uncovered) - len(missing),
        "missing": len(missing),
        "layers": len(rows),
        "reconciled": len(rows) - len(failed),
        "vacuous": sum(r.vacuous for r in rows),
        "single_sample_checked": sum(r.sample_error is not None for r in rows),
        "relu_gelu_calls": sum(dispatched.calls.values()),
        "relu_gelu_missed": missed,
        "activation_coverage": round(coverage.activation_share, 6),
        "zero_gradient_share": coverage.zero_gradient_share,
        "lswag": result["lswag"],
        "seconds": round(time.perf_counter() - start, 1),
        "why": "; ".join([*map(": ".join, missing.items()), *failed, *coverage.unplaced][:5]),
    }


def full(row: dict[str, object]) -> bool:
    """Every convolution and linear weight covered and reconciled, every ReLU- and GELU-type activation coded."""
    return (
        row["status"] == "ok"
        and int(row["missing"]) == 0
        and int(row["reconciled"]) == int(row["layers"])
        and int(row["relu_gelu_missed"]) == 0
        and float(row["activation_coverage"] or 1) == 1
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="library/name, optionally followed by :detection or :segmentation")
    parser.add_argument("--csv", type=pathlib.Path, help="append rows here and skip models that are there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        line.split() for line in (HERE / "coverage_models.txt").read_text().splitlines() if line and line[0] != "#"
    ]
    kinds = {parts[0]: parts[1] if len(parts) > 1 else "" for parts in lines}
    kinds |= {f"transformers/{name}": "" for name in CASES}
    if options.models:
        kinds = {m.partition(":")[0]: m.partition(":")[2] or kinds.get(m, "") for m in options.models}
    rows: list[dict[str, object]] = []
    if options.csv and options.csv.exists():
        rows = list(csv.DictReader(options.csv.open()))
        kinds = {spec: kind for spec, kind in kinds.items() if spec not in {row["model"] for row in rows}}
    names = """model status params_M weights weight_coverage unreached missing layers reconciled vacuous
        single_sample_checked relu_gelu_calls relu_gelu_missed activation_coverage zero_gradient_share
        lswag seconds why"""
    fields = names.split()
    console = Console()
    for spec, kind in kinds.items():
        row = measure(spec, kind)
        rows.append(row)
        console.print(
            ("[green]full[/] " if full(row) else "[yellow]part[/] ") + spec,
            row.get("status"),
            row.get("why", ""),
            f"{row.get('seconds', '')} s",
        )
        if options.csv:
            new = not options.csv.exists()
            with options.csv.open("a", newline="") as file:
                writer = csv.DictWriter(file, fields)
                if new:
                    writer.writeheader()
                writer.writerow(row)
        gc.collect()
    ran = [row for row in rows if not str(row["status"]).startswith("skipped")]
    table = Table(title="Coverage of real models")
    for column in ("library", "models", "without exception", "fully covered and reconciled"):
        table.add_column(column, justify="right")
    for library in ("timm", "torchvision", "transformers"):
        mine = [row for row in ran if str(row["model"]).startswith(library)]
        if mine:
            share = sum(map(full, mine)) / len(mine)
            table.add_row(
                library,
                str(len(mine)),
                str(sum(row["status"] == "ok" for row in mine)),
                f"{sum(map(full, mine))} ({share:.1%})",
            )
    console.print(table)


if __name__ == "__main__":
    main()
