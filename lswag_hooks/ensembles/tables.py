"""Scores and accuracies from whatever they come as: tables, columns, files, benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lswag_hooks.benchmark import Benchmark
from lswag_hooks.ensembles.aggregation import as_columns
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.wording import named

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Given:
    """What a fit was given, before anything is left out.

    Attributes:
        scores: one row an architecture, one column a proxy.
        accuracy: with the same index.
        source: where it is from, plain data for a JSON file.
        notes: what was passed over on reading.
    """

    scores: pd.DataFrame
    accuracy: pd.Series
    source: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_given(
    scores: pd.DataFrame | Mapping[str, Any] | str | Path | Benchmark,
    accuracy: pd.Series | Sequence[float] | str | None = None,
    task: str | None = None,
) -> Given:
    """Read scores and accuracies.

    Args:
        scores: a table, a dict of columns, the path of a CSV file, or a :class:`~lswag_hooks.benchmark.Benchmark`.
        accuracy: one value a row, matched by index where both have labels; or the name of a column of ``scores``. Not
            with a benchmark, which knows them.
        task: of a benchmark, or of a CSV file with a column ``task``; needed if there are several.

    Raises:
        InputError: something is missing or does not fit together; the message says what.

    Example:
        >>> read_given({"zico": [1.0, 2.0], "accuracy": [90.0, 91.0]}, "accuracy").accuracy.tolist()
        [90.0, 91.0]
    """
    if isinstance(scores, Benchmark):
        if accuracy is not None:
            raise InputError("a benchmark has its own accuracies: leave accuracy out, and name the task.")
        task = _only(task, scores.tasks, scores.name)
        # a folder's name says something about whose machine it was, not about the table
        source_of = Path(scores.source).name if Path(scores.source).exists() else scores.source
        origin = {"benchmark": scores.name, "task": task, "file": source_of}
        return Given(scores.proxies(task), scores.accuracy(task), origin)
    notes: list[str] = []
    source: dict[str, Any] = {}
    if isinstance(scores, (str, Path)):
        if not isinstance(accuracy, str):
            raise InputError(f"name the column of {scores} that holds the accuracies: accuracy='...'.")
        source = {"file": Path(scores).name} | ({} if task is None else {"task": task})
        scores = read_csv(scores, notes, task)
    elif task is not None:
        raise InputError(f"task={task!r} is for a benchmark or a CSV file with a column of that name: leave it out.")
    if isinstance(accuracy, str):
        table = as_columns(scores).rename(columns=str)
        if accuracy not in table:
            near = near_matches(accuracy, map(str, table.columns)) or f" There are: {', '.join(map(str, table))}."
            raise InputError(f"there is no column {accuracy!r} of accuracies.{near}")
        return Given(table.drop(columns=accuracy), table[accuracy], source | {"accuracy": accuracy}, tuple(notes))
    if accuracy is None:
        raise InputError("fit needs accuracies: one value a row, or the name of the column that holds them.")
    table, truth = _aligned(as_columns(scores).rename(columns=str), accuracy, notes)
    return Given(table, truth, source, tuple(notes))


def read_csv(path: str | Path, notes: list[str], task: str | None = None) -> pd.DataFrame:
    """A CSV file's columns of numbers, indexed by its first column of texts if those differ.

    Args:
        path: of the file.
        notes: what is passed over is appended.
        task: rows of which task to take, if there is a column ``task``.

    Raises:
        InputError: there is no such file, it is no CSV table, or it has several tasks and none was named.
    """
    import pandas as pd

    if not Path(path).is_file():
        raise InputError(f"there is no file {str(path)!r}: give a CSV table, one column a proxy, one row a candidate.")
    try:
        raw = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from None
    if "task" in raw:
        task = _only(task, list(dict.fromkeys(raw["task"].astype(str))), str(path))
        raw = raw[raw["task"].astype(str) == task].drop(columns="task").reset_index(drop=True)
    elif task is not None:
        raise InputError(f"{path} has no column 'task' in which to find {task!r}.")
    texts = [name for name in raw if not pd.api.types.is_numeric_dtype(raw[name]) and raw[name].notna().any()]
    names = next((name for name in texts if raw[name].is_unique), None)
    if names is not None:
        raw = raw.set_index(names)
        texts.remove(names)
    if texts:
        notes.append(f"passed over, because they hold no numbers: columns {named(map(str, texts))}")
    return raw.drop(columns=texts)


def _only(task: str | None, tasks: Sequence[str], name: str) -> str:
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task is not None and task in tasks:
        return task
    near = "" if task is None else near_matches(task, tasks)
    said = "holds several tasks" if task is None else f"has no task {task!r}"
    raise InputError(f"{name} {said}.{near} Name one of: {', '.join(tasks)}.")


def _aligned(
    table: pd.DataFrame, accuracy: pd.Series | Sequence[float], notes: list[str]
) -> tuple[pd.DataFrame, pd.Series]:
    """Rows that have both, matched by label where the accuracies have labels, else by position."""
    import pandas as pd

    try:
        truth = accuracy.astype(float) if isinstance(accuracy, pd.Series) else pd.Series(accuracy, dtype=float)
    except (ValueError, TypeError):
        raise InputError("the accuracies hold something that is no number.") from None
    if not isinstance(accuracy, pd.Series):
        if len(truth) != len(table):
            raise InputError(f"there are {len(truth)} accuracies for {len(table)} rows of scores: give one a row.")
        return table, truth.set_axis(table.index)
    if table.index.equals(truth.index):
        return table, truth
    if not (table.index.is_unique and truth.index.is_unique):
        raise InputError("scores and accuracies are matched by index, and a label occurs twice: make them unique.")
    common = table.index[table.index.isin(truth.index)]
    if not len(common):
        raise InputError(
            f"no label of the scores ({table.index[0]!r}, ...) is among those of the accuracies ({truth.index[0]!r}, "
            "...): give both the same index, or the accuracies as a list."
        )
    for rows, what in ((table, "an accuracy"), (truth, "scores")):
        if len(common) < len(rows):
            notes.append(f"left out: {len(rows) - len(common)} of {len(rows)} rows without {what}")
    return table.loc[common], truth[common]
