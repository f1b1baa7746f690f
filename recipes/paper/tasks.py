"""The paper's tasks: where their accuracies and images are, and what networks of them score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from lswag_hooks import Batch, Benchmark, get_space
from lswag_hooks.correlating import Work, measure_all
from lswag_hooks.correlation import spearman
from lswag_hooks.errors import InputError
from lswag_hooks.functional import regularised
from lswag_hooks.proxies import Proxy, TENASRegions, resolve_proxies
from lswag_hooks.ranking import images_of
from lswag_hooks.rng import seeded
from lswag_hooks.spaces import Space
from lswag_hooks.spaces.transnasbench_tasks import DENSE
from lswag_hooks.wording import named
from recipes.data import CIFAR10, CIFAR100, ImageData, ImageNet, ImageNet16120, Taskonomy

Source: TypeAlias = Literal["published", "measured"]


@dataclass(frozen=True)
class Task:
    """A column of the paper's tables.

    Attributes:
        key: name in the tables here.
        space: of the networks.
        task: of the benchmark, and of the space if it has it.
        images: data set.
        tables: files of accuracies below DATA/benchmarks or DATA/vit, the first that has the task is taken.
        outputs: number of outputs, where the space does not know.
    """

    key: str
    space: str
    task: str
    images: str
    tables: tuple[str, ...]
    outputs: int | None = None

    @property
    def group(self) -> str:
        """First word of the key: nb201, nb101, nb301, micro, macro, vit."""
        return self.key.split("-")[0]


def _transnas(group: str) -> list[Task]:
    names = {
        "ae": "autoencoder",
        "room": "room_layout",
        "obj": "class_object",
        "scene": "class_scene",
        "jig": "jigsaw",
        "norm": "normal",
        "segm": "segmentsemantic",
    }
    tables = (f"benchmarks/zc_transbench101_{group}.json", f"benchmarks/transbench101_{group}.csv.gz")
    return [Task(f"{group}-{key}", f"transnasbench_{group}", task, "taskonomy", tables) for key, task in names.items()]


NB201 = (
    "benchmarks/zc_nasbench201.json",
    "benchmarks/nasbench201_cifar10_release_proxies.csv.gz",
    "benchmarks/nasbench201.csv.gz",
)
TASKS = {
    task.key: task
    for task in (
        Task("nb201-c10", "nasbench201", "cifar10", "cifar10", NB201),
        Task("nb201-c100", "nasbench201", "cifar100", "cifar100", NB201),
        Task("nb201-in16", "nasbench201", "imagenet16-120", "imagenet16", NB201),
        Task(
            "nb101",
            "nasbench101",
            "cifar10",
            "cifar10",
            ("benchmarks/zc_nasbench101.json", "benchmarks/nasbench101.csv.gz"),
        ),
        Task(
            "nb301", "darts", "cifar10", "cifar10", ("benchmarks/zc_nasbench301.json", "benchmarks/nasbench301.csv.gz")
        ),
        *_transnas("micro"),
        *_transnas("macro"),
        Task(
            "vit-tiny",
            "autoformer_tiny",
            "imagenet_top1_inherited",
            "imagenet",
            ("vit/autoformer_tiny_imagenet.csv",),
            1000,
        ),
        Task("vit-small", "autoformer_small", "imagenet", "imagenet", ("vit/autoformer_small_imagenet.csv",), 1000),
    )
}
ORIGINALS: dict[str, type[ImageData]] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "imagenet16": ImageNet16120,
    "taskonomy": Taskonomy,
    "imagenet": ImageNet,
}
SAMPLES = {  # a few images of the data set itself
    "cifar10": "images/cifar10_png_sample.npz",
    "cifar100": "images/cifar100_sample.npz",
    "imagenet": "images/imagenet_224_64.npz",
}
STAND_INS = {"imagenet16": "images/tinyimagenet_sample.npz", "taskonomy": "images/imagenet_224_64.npz"}
SIDES = {"imagenet16": 16, "taskonomy": 256}


@dataclass(frozen=True)
class Measuring:
    """What is measured, and how. Numbers by group (``nb201``, ``micro``, ...) or one for all.

    Attributes:
        tasks: keys of TASKS.
        published: other tasks, where proxies are taken as published and nothing is measured.
        networks: how many of each task; 0: all.
        samples: images of a batch.
        sides: of the images, by group or data set; by default the data's own.
        stand_ins: other images, where those of a task are not there.
        proxies: ``all``, or names with commas between.
        left_out: of all, proxies that networks of a group cannot have.
        seed: of the networks, the images and the weights.
        workers: processes.
    """

    tasks: list[str] = field(default_factory=lambda: list(TASKS)[:19])
    published: list[str] = field(default_factory=list)
    networks: int | dict[str, int] = 1000
    samples: int | dict[str, int] = 64
    sides: dict[str, int] = field(default_factory=dict)
    stand_ins: bool = False
    proxies: str = "all"
    left_out: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        unknown = [key for key in [*self.tasks, *self.published] if key not in TASKS]
        if unknown:
            raise InputError(f"measuring: tasks {', '.join(unknown)} are unknown; there are {', '.join(TASKS)}.")

    def of(self, what: Literal["networks", "samples"], task: Task) -> int:
        """The number for a task."""
        value: int | dict[str, int] = getattr(self, what)
        if isinstance(value, int):
            return value
        found = value.get(task.key, value.get(task.group, value.get("other")))
        if found is None:
            raise InputError(f"measuring.{what}: say how many for {task.group}, or for other.")
        return found


@dataclass(frozen=True, eq=False)
class Scores:
    """What networks of a task scored.

    Attributes:
        task: which.
        frame: one row a network, one column a proxy.
        accuracy: with the same index.
        up: of proxies that are better when lower False.
        reasons: why values are missing, and how often.
    """

    task: Task
    frame: pd.DataFrame
    accuracy: pd.Series
    up: Mapping[str, bool] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)

    def rho(self, values: pd.Series) -> float:
        """Spearman of values with accuracy, over the networks that have both; NaN for fewer than 5."""
        both = values.notna() & self.accuracy.notna()
        return spearman(values[both].to_numpy(), self.accuracy[both].to_numpy()) if both.sum() >= 5 else float("nan")

    def correlations(self) -> pd.Series:
        """Spearman of each proxy, signed so that more is better."""
        return pd.Series({name: self.rho(self.turned[name]) for name in self.frame}, name=self.task.key)

    @property
    def turned(self) -> pd.DataFrame:
        """The scores, with the sign turned of those that are better when lower."""
        return self.frame * [1 if self.up.get(name, True) else -1 for name in self.frame]


def table_of(task: Task, data: Path) -> Benchmark:
    """The accuracies of a task.

    Raises:
        InputError: no file has them; says which are looked for and where they are published.
    """
    found = [name for name in task.tables if (data / name).exists()]
    for name in found:
        benchmark = Benchmark.load(data / name, task.space)
        if task.task in benchmark.tasks:
            return benchmark
    if task.key == "vit-small":
        raise InputError(f"no {data / task.tables[0]}: `python -m recipes.autoformer.sample_benchmark` makes it.")
    if not found:
        return Benchmark.load(data / task.tables[0])  # raises, and says where the file is published
    raise InputError(
        f"{', '.join(found)} in {data} have no accuracies for {task.task!r}: put {Path(task.tables[0]).name} of "
        "NAS-Bench-Suite-Zero (https://github.com/automl/NASLib/tree/zerocost, its README links it) into benchmarks/."
    )


def batch_of(task: Task, space: Space, data: Path, measuring: Measuring, samples: int | None = None) -> Batch:
    """A batch in the form of the task: from the data set as published (DATA/cifar10, ...), or a sample of it.

    Raises:
        InputError: neither is there; says where to obtain the data.
    """
    name, number = task.images, measuring.of("samples", task) if samples is None else samples
    side = measuring.sides.get(task.group, measuring.sides.get(name, SIDES.get(name)))
    folder, kind = data / name, ORIGINALS[name]
    own = task.task if task.task in space.tasks else None
    if folder.is_dir():
        options: dict[str, Any] = {"batch_size": number, "workers": 0, "seed": measuring.seed}
        if issubclass(kind, Taskonomy):
            masks = {"class_object": "selected_class_object.npy", "class_scene": "selected_class_scene.npy"}
            classes = str(folder / masks[task.task]) if task.task in masks else None
            splits = str(folder / "train_val_test_tiny.csv")
            module: ImageData = kind(
                str(folder), task=task.task, splits=splits, classes=classes, size=side or 256, **options
            )
        else:
            module = kind(str(folder), **options)
        with seeded(measuring.seed):
            loaded = Batch.from_datamodule(module, samples=number)
        return loaded if issubclass(kind, Taskonomy) else space.batch(loaded, own, measuring.seed)
    candidates = [SAMPLES.get(name), STAND_INS.get(name) if measuring.stand_ins else None]
    file = next((data / one for one in candidates if one and (data / one).is_file()), None)
    if file is None:
        also = "" if name in SAMPLES or measuring.stand_ins else " (or allow others: --measuring.stand_ins true)"
        raise InputError(f"it needs images of {name} in {folder}{also}. {kind.obtain}")
    size = None if side is None else (3, side, side)
    return space.batch(Batch.from_npz(file, number, size, measuring.seed), own, measuring.seed)


def prepared(
    data: Path, measuring: Measuring, keys: Sequence[str] | None = None
) -> dict[str, tuple[Benchmark, Space, Batch]]:
    """Accuracies, space and batch of every task, before anything is measured.

    Raises:
        InputError: something is missing; all of it is told at once.
    """
    found, missing = {}, []
    for task in (TASKS[key] for key in keys or measuring.tasks):
        space = get_space(task.space)
        parts: list[Any] = []
        for part in (lambda: table_of(task, data), lambda: batch_of(task, space, data, measuring)):  # noqa: B023
            try:
                parts.append(part())
            except InputError as error:
                missing.append(f"  {task.key}: {error}")
        if len(parts) == 2:
            found[task.key] = parts[0], space, parts[1]
    if missing:
        told = "\n".join(missing)
        tasks = len({line.split(":")[0] for line in missing})
        raise InputError(
            f"tasks that cannot be measured: {tasks}\n{told}\n"
            "Obtain these, or name the others by --measuring.tasks, or take --small."
        )
    return found


def measure(
    task: Task,
    ready: tuple[Benchmark, Space, Batch],
    proxies: Sequence[Proxy],
    store: Path,
    measuring: Measuring,
    progress: bool = True,
) -> Scores:
    """Score networks of a task; finished scores are kept in the store, and the same call goes on after Ctrl-C.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    benchmark, space, batch = ready
    known = len(benchmark.architectures(task.task))
    chosen = benchmark.sample(task.task, min(measuring.of("networks", task) or known, known), measuring.seed)
    names = chosen.architectures(task.task)
    own = task.task if task.task in space.tasks else None
    size = images_of(batch)
    shape = tuple(batch.inputs.shape[-3:]) if size is None or isinstance(size, int) else size
    wanted = (*proxies, *(one for one in resolve_proxies("params") if one.key not in {p.key for p in proxies}))
    work = Work(space, own, batch, wanted, measuring.seed, task.outputs, shape)
    if progress:
        print(f"{task.key}: {len(names)} networks, {len(batch)} images of {batch.name}, {shape[-1]} px", flush=True)
    found, interrupted = measure_all(work, names, store=store, workers=measuring.workers, progress=progress)
    if interrupted:
        print(f"stopped after {len(found)} of {len(names)} networks of {task.key}; the same command goes on.")
        raise KeyboardInterrupt
    frame = pd.DataFrame({proxy.key: {name: one.scores[proxy.key] for name, one in found.items()} for proxy in wanted})
    reasons: dict[str, int] = {}
    for one in found.values():
        for reason in dict.fromkeys(one.reasons.values()):
            lacking = [key for key, said in one.reasons.items() if said == reason]
            told = f"{named(lacking) if len(lacking) < len(wanted) else 'any score'}: {reason}"
            reasons[told] = reasons.get(told, 0) + 1
    up = {proxy.key: proxy.higher_is_better for proxy in wanted}
    return Scores(task, frame, chosen.accuracy(task.task)[frame.index], up, reasons)


def every_proxy(task: Task, measuring: Measuring) -> list[Proxy]:
    """The proxies to measure, all of the package but for those that no network of the task has a value of.

    Linear regions of TE-NAS are counted on the batch where images of 3 x 3 pixels cannot enter. The decoders of dense
    tasks have transposed convolutions, on which Fisher breaks down and takes all other scores with it.
    """
    names = [proxy.name for proxy in resolve_proxies(measuring.proxies)]
    if measuring.proxies == "all":
        left_out = {"reg_swap", *measuring.left_out.get(task.group, ())}
        left_out |= {"az_progressivity", "te_nas_regions"} if task.group == "vit" else {"tf_tas"}
        left_out |= {"fisher"} if task.task in DENSE else set()
        names = [name for name in names if name not in left_out]
    batch = task.group == "nb101" or task.task in (*DENSE, "jigsaw")
    return [
        TENASRegions(inputs="batch") if name == "te_nas_regions" and batch else resolve_proxies(name)[0]
        for name in names
    ]


def scores_of(
    source: Source,
    data: Path,
    out: Path,
    measuring: Measuring,
    keys: Sequence[str] | None = None,
    most: int | None = 1000,
) -> list[Scores]:
    """Proxies of each task: as published beside its accuracies, or measured here.

    SWAP's regularised form is added to what was measured, with the mean of the networks' sizes as its preferred size
    and their variance as its width. Of a published table ``most`` networks are taken, the paper's 1,000; None: all.
    """
    if source == "published":
        names = keys or measuring.published or measuring.tasks
        return [published_scores(table_of(TASKS[key], data), TASKS[key], measuring.seed, most) for key in names]
    tasks = [TASKS[key] for key in keys or measuring.tasks]
    ready = prepared(data, measuring, keys)
    found = []
    for task in tasks:
        one = measure(task, ready[task.key], every_proxy(task, measuring), out / "scores.db", measuring)
        if {"swap", "params"} <= set(one.frame):
            sizes = one.frame["params"] / 1e3
            mu, sigma = float(sizes.mean()), float(sizes.var() or 1.0)
            pairs = zip(one.frame["swap"], one.frame["params"], strict=True)
            one.frame["reg_swap"] = [
                regularised(swap, int(params), mu, sigma) if np.isfinite(swap) else np.nan for swap, params in pairs
            ]
        found.append(one)
    return found


def published_scores(benchmark: Benchmark, task: Task, seed: int = 0, most: int | None = None) -> Scores:
    """The proxies that a benchmark's table has for a task; ``most`` networks of it that have half of them."""
    proxies, accuracy = benchmark.proxies(task.task), benchmark.accuracy(task.task)
    complete = proxies.index[proxies.notna().mean(axis=1) >= 0.5]
    order = np.random.default_rng(seed).permutation(len(complete))
    rows = complete[np.sort(order[:most])]
    return Scores(task, proxies.loc[rows], accuracy[rows])


def told(scores: Sequence[Scores]) -> list[str]:
    """What to know about the networks, a line each: how many, how sure, what is missing."""
    numbers = ", ".join(f"{one.task.key} {len(one.frame)}" for one in scores)
    least = min(len(one.frame) for one in scores)
    lines = [f"networks: {numbers}"]
    if least < 300:
        lines.append(f"a correlation from {least} networks is off by up to {2 / np.sqrt(max(least - 3, 1)):.2f}")
    for one in scores:
        lines += [f"{one.task.key}: {number} without {reason}" for reason, number in one.reasons.items()]
    return lines
