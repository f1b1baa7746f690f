"""Time and memory of a score, as ratios to one ordinary forward and backward pass of the same model and batch.

    python benchmarks/speed.py                   # one thread; about ten minutes
    python benchmarks/speed.py --device cuda --only resnet18 --rounds 20

Everything is measured in one run, in turns, so that a machine that slows down slows all of it; medians of ratios.
Beside this package: per-sample gradients by torch.func.vmap and by Opacus, and distinct patterns by torch.unique.
"""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import CASES
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import lswag_hooks as lh
from lswag_hooks.proxies import list_proxies, proxy_class

REPEATED = {"draws", "singles", "ntk", "graph"}  # a pass for each mini-batch, sample, sample, layer
ONE_PASS = ["lswag", "zico", "swap", "nwot", "grad_norm", "l2_norm", "plain", "snip", "fisher", "params", "flops"]


def one_pass() -> list[object]:
    """All scores that one forward and backward pass serves."""
    return [*ONE_PASS, lh.RegSwap(mu=1000, sigma=1e6)]


def unrepeated() -> list[str]:
    """All proxies but those that repeat a pass."""
    return [name for name in list_proxies() if not proxy_class(name).needs & REPEATED]


def by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Per-sample gradients by vmap over the whole model (evaluation mode: it cannot take batch statistics)."""
    model = copy.deepcopy(model).eval()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, (weights, buffers), (image[None],)), label[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), chunk_size=max(1, len(x) // 2))

    def run() -> object:
        found = gradients(weights, x, y)
        return [
            float(d[d > 0].reciprocal().sum().log())
            for name, g in found.items()
            if g.dim() > 2
            for d in (g.abs().std(0, unbiased=False),)
        ]

    return run


def by_opacus(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object] | None:
    """Per-sample gradients by Opacus (BatchNorm replaced, as it demands), stored whole."""
    try:
        from opacus import GradSampleModule
        from opacus.validators import ModuleValidator
    except ImportError:
        return None
    model = ModuleValidator.fix(copy.deepcopy(model))
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # its backward hooks do not allow it
    wrapped = GradSampleModule(model, strict=False)

    def run() -> object:
        F.cross_entropy(wrapped(x), y).backward()
        found = []
        for parameter in wrapped.parameters():
            sample = getattr(parameter, "grad_sample", None)
            if sample is not None and sample.dim() > 2:
                d = sample.abs().std(0, unbiased=False)
                found.append(float(d[d > 0].reciprocal().sum().log()))
            parameter.grad = parameter.grad_sample = None
        return found

    return run


def by_unique(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Distinct patterns by torch.unique over the units of each activation module."""

    def run() -> object:
        found: list[int] = []

        def count(module: nn.Module, inputs: object, output: Tensor) -> None:
            found.append(len(torch.unique((output > 0).flatten(1).float().T, dim=0)))

        handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.ReLU, nn.GELU))]
        with torch.no_grad():
            model(x)
        for handle in handles:
            handle.remove()
        return found

    return run


def build(name: str, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Model and batch of a case."""
    torch.manual_seed(0)
    make, shape = CASES[name]
    return make().train().to(device), torch.randn(shape, device=device), torch.randint(0, 10, shape[:1], device=device)


def tasks(name: str, device: str) -> dict[str, Callable[[], object]]:
    """What is timed."""
    model, x, y = build(name, device)
    batch = lh.Batch(x, y)

    def plain() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()

    chosen: dict[str, Callable[[], object] | None] = {
        "forward + backward": plain,
        "L-SWAG, all layers": lambda: lh.score(model, batch),
        "L-SWAG, last three percentiles": lambda: lh.score(model, batch, interval=(7, 9)),
        "all scores together": lambda: lh.score(model, batch, one_pass()),
        "all proxies without repeats": lambda: lh.score(model, batch, unrepeated()),
        "vmap, gradients alone": by_vmap(model, x, y),
        "Opacus, gradients alone": by_opacus(model, x, y),
        "torch.unique, patterns alone": by_unique(model, x, y),
    }
    return {key: task for key, task in chosen.items() if task is not None}


def timed(task: Callable[[], object], device: str) -> float:
    """Seconds of one run."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def high_water() -> int:
    """Peak resident memory of this process in kB; not getrusage's, which a child inherits from its parent on Linux."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise SystemExit("memory is measured on Linux alone")


def peak(name: str, what: str) -> None:
    """Print the peak memory of one plain step or one score; a process of its own, since peaks never fall."""
    model, x, y = build(name, "cpu")
    batch = lh.Batch(x, y)
    lh.score(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (torch.randn(2, 2), torch.tensor([0, 1])))  # imports, arenas
    F.cross_entropy(model(x[:1].repeat(2, 1, 1, 1)), y[:2]).backward()
    model.zero_grad(set_to_none=True)
    before = high_water()
    if what == "plain":
        F.cross_entropy(model(x), y).backward()
    else:
        lh.score(model, batch)
    print(json.dumps({"peak": high_water() - before}))


def extra_memory(name: str) -> float:
    """Peak memory of a score over that of a plain step, above the idle process; medians, as one moves by a fifth."""
    found: dict[str, list[int]] = {"plain": [], "score": []}
    for what in ["plain", "score"] * 5:
        output = subprocess.check_output([sys.executable, __file__, "--peak", name, what], text=True)
        found[what].append(json.loads(output.splitlines()[-1])["peak"])
    return statistics.median(found["score"]) / statistics.median(found["plain"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.peak:
        peak(*options.peak)
        return
    rows: dict[str, dict[str, str]] = {}
    for name in options.only:
        chosen = tasks(name, options.device)
        for key in list(chosen):
            try:
                chosen[key]()
            except RuntimeError:  # Opacus does not allow in-place operations
                if not key.endswith("alone"):
                    raise
                del chosen[key]
                rows.setdefault(key, {})[name] = "fails"
        seconds: dict[str, list[float]] = {key: [] for key in chosen}
        for _ in range(options.rounds):
            for key, task in chosen.items():
                seconds[key].append(timed(task, options.device))
        base = seconds["forward + backward"]
        for key, values in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
            shown = f"{statistics.median(base):.3f} s" if key == "forward + backward" else f"{ratio:.2f}"
            rows.setdefault(key, {})[name] = shown
        together = zip(seconds["all scores together"], seconds["L-SWAG, all layers"], strict=True)
        share = statistics.median(a / b for a, b in together)
        rows.setdefault("all scores / L-SWAG alone", {})[name] = f"{share:.2f}"
        if options.device == "cpu":
            rows.setdefault("peak memory / plain step's", {})[name] = f"{extra_memory(name):.2f}"
    table = Table(title="Ratios to one forward + backward pass (its own row: seconds)")
    table.add_column("")
    for name in options.only:
        table.add_column(name, justify="right")
    for key, values in rows.items():
        table.add_row(key, *(values.get(name, "-") for name in options.only))
    console = Console()
    console.print(table)
    device = torch.cuda.get_device_name() if options.device != "cpu" else platform.processor() or platform.machine()
    console.print(f"torch {torch.__version__}, {options.threads} thread(s), {options.rounds} rounds, {device}")


if __name__ == "__main__":
    main()
