"""Architectures with known accuracies, as published: what a proxy is measured against."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.readers import KEYS, KNOWN, read
from lswag_hooks.rng import check_seed

if TYPE_CHECKING:
    import pandas as pd

BUNDLED = {"nasbench201": "nasbench201_cifar10_500.csv"}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A published table of architectures, their accuracies on one task or several, and published proxies.

    Attributes:
        name: what to call it in a report.
        space: name of the search space its architectures belong to, or None for one that this package cannot build.
        table: columns ``task``, ``architecture``, ``accuracy`` and one for each published proxy. Marks for "no value"
            (-1e8, infinities) are NaN.
        source: where it is from: a file, or the package itself.

    Example:
        >>> benchmark = Benchmark.load("nasbench201")
        >>> benchmark
        Benchmark('nasbench201', space='nasbench201', cifar10: 500 architectures)
        >>> few = benchmark.sample("cifar10", 3, seed=0)
        >>> few.accuracy("cifar10").loc[few.architectures("cifar10")[0]]
        np.float64(85.12)
    """

    name: str
    space: str | None
    table: pd.DataFrame = field(repr=False)
    source: str = ""

    @classmethod
    def load(cls, path_or_name: str | Path, space: str | None = None, *, trusted: bool = False) -> Benchmark:
        """Read a benchmark.

        These are known, by what is in them: tables and JSON files of NAS-Bench-Suite-Zero; the files of NATS-Bench
        (folder or ``.pickle.pbz2``) and NAS-Bench-201 (``.pth``); the AutoFormer tables of OoD-ViT-NAS and Auto-Prox;
        HyTAS; timm's results. A table of your own has the columns ``task``, ``arch``, ``val_accuracy``.

        Args:
            path_or_name: a file or folder, or ``"nasbench201"``, 500 architectures that come with this package.
            space: name of the search space; by default what the architectures look like.
            trusted: read a pickle that holds more than plain data. It can run any code: only if you trust its source.

        Raises:
            InputError: nothing is there (says where to obtain it), or it cannot be read.
        """
        if str(path_or_name) in BUNDLED:
            name = str(path_or_name)
            with resources.as_file(resources.files("lswag_hooks") / "data" / BUNDLED[name]) as path:
                found, table = read(path)
            source = "NAS-Bench-Suite-Zero (github.com/automl/NASLib), 500 of its rows, part of this package"
        else:
            path = Path(path_or_name).expanduser()
            if not path.exists():
                raise InputError(f"there is no benchmark {str(path_or_name)!r}.{_where(path)}")
            found, table = read(path, space, trusted)
            name, source = path.name.split(".")[0], str(path)
        return cls(name, space if space is not None else found, table, source)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the file."""
        return list(dict.fromkeys(self.table["task"]))

    def architectures(self, task: str) -> list[str]:
        """Architectures whose accuracy on a task is known, each once, in the order of the file.

        Raises:
            InputError: there is no such task.
        """
        return list(self._rows(task).index)

    def accuracy(self, task: str) -> pd.Series:
        """Accuracies on a task, by architecture, in the units of the file.

        Raises:
            InputError: there is no such task.
        """
        return self._rows(task)["accuracy"]

    def proxies(self, task: str) -> pd.DataFrame:
        """Published proxies for a task, those that have values, by architecture; NaN where there is none.

        Raises:
            InputError: there is no such task.
        """
        return self._rows(task).drop(columns=["task", "accuracy"]).dropna(axis="columns", how="all")

    def sample(self, task: str, n: int | None = None, seed: int = 0) -> Benchmark:
        """A uniform subset of the architectures of a task, without replacement.

        The same seed gives the same subset, and a smaller one is part of a larger one, so that scores can be reused.

        Args:
            task: the only one that the result has.
            n: how many; None: all.
            seed: of the choice.

        Raises:
            InputError: there is no such task, or there are not so many architectures.
        """
        rows = self._rows(task).reset_index()
        if n is None:
            n = len(rows)
        if not 1 <= n <= len(rows):
            raise InputError(f"n={n}: {self.name} has {len(rows)} architectures with a known accuracy on {task!r}.")
        chosen = np.sort(np.random.default_rng(check_seed(seed)).permutation(len(rows))[:n])
        return replace(self, table=rows.iloc[chosen].reset_index(drop=True)[list(self.table)])

    def to_pandas(self) -> pd.DataFrame:
        """The table, a row for each task and architecture."""
        return self.table.copy()

    def __repr__(self) -> str:
        shown = ", ".join(f"{task}: {len(self.architectures(task))}" for task in self.tasks)
        return f"Benchmark({self.name!r}, space={self.space!r}, {shown} architectures)"

    def _rows(self, task: str) -> pd.DataFrame:
        if task not in self.tasks:
            raise InputError(
                f"{self.name} has no task {task!r}.{near_matches(task, self.tasks)} It has: {', '.join(self.tasks)}."
            )
        rows = self.table[(self.table["task"] == task) & self.table["accuracy"].notna()]
        return rows.drop_duplicates("architecture").set_index("architecture")


def _where(path: Path) -> str:
    """Where to obtain a file that is not there, as a sentence to append to an error message."""
    told = {key.casefold(): files for key, files in KEYS.items()} | {file.casefold(): (file,) for file in KNOWN}
    files = told.get(path.name.casefold()) or told.get(path.name.split(".")[0].casefold())
    if files is None:
        near = near_matches(path.name, [*BUNDLED, *KEYS, *KNOWN])
        return f"{near} Give a file, or {' or '.join(map(repr, BUNDLED))}, which comes with this package."
    return " Obtain " + "; or ".join(f"{file} from {KNOWN[file]}" for file in files) + ", and give its path."
