"""The formats in which benchmarks are published, each read into one table: task, architecture, accuracy, proxies."""

from __future__ import annotations

import ast
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lswag_hooks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_SUITE_ZERO = "NAS-Bench-Suite-Zero, https://github.com/automl/NASLib/tree/zerocost (its README links {})"
_NATS = "NATS-Bench, https://github.com/D-X-Y/NATS-Bench (its README links it)"
KNOWN = {  # file -> where it is published
    "zc_nasbench101.json": _SUITE_ZERO.format("https://drive.google.com/file/d/1Rkse44EWgYdBS34iyhjSs9Y2l0fxPCpU"),
    "zc_nasbench201.json": _SUITE_ZERO.format("https://drive.google.com/file/d/1R7n7GpFHAjUZpPISzbhxH0QjubnvZM5H"),
    "zc_nasbench301.json": _SUITE_ZERO.format("https://drive.google.com/file/d/1RddgmwqjWJ1czGT8gEPB8qqhUHazp92G"),
    "zc_transbench101_micro.json": _SUITE_ZERO.format(
        "https://drive.google.com/file/d/1SBOVAyhLCBTAJiU_fo7hLRknNrGNqFk7"
    ),
    "zc_transbench101_macro.json": _SUITE_ZERO.format(
        "https://drive.google.com/file/d/1teH8JcQsamZngUD_DMQyNkCoUYYSTM0M"
    ),
    "NATS-tss-v1_0-3ffb9-simple": _NATS,
    "NATS-tss-v1_0-3ffb9.pickle.pbz2": _NATS,
    "NAS-Bench-201-v1_1-096897.pth": "NAS-Bench-201, https://github.com/D-X-Y/NAS-Bench-201 (its README links it)",
    "autoformer_tiny_imagenet.csv": "OoD-ViT-NAS, https://github.com/vovantuan1999a/OoD-ViT-NAS",
    "autoprox_autoformer_tiny.csv": "Auto-Prox, https://github.com/lliai/Auto-Prox-AAAI24",
    "hytas_hyperspectral.csv": "HyTAS, https://github.com/zhoufangqin/HyTAS",
    "timm_imagenet1k.csv": "timm's results, https://github.com/huggingface/pytorch-image-models/tree/main/results",
}
KEYS = {  # what a person may ask for -> files
    "nasbench101": ("zc_nasbench101.json",),
    "nasbench201": ("zc_nasbench201.json", "NATS-tss-v1_0-3ffb9-simple"),
    "nasbench301": ("zc_nasbench301.json",),
    "darts": ("zc_nasbench301.json",),
    "transnasbench_micro": ("zc_transbench101_micro.json",),
    "transnasbench_macro": ("zc_transbench101_macro.json",),
    "nats": ("NATS-tss-v1_0-3ffb9-simple",),
    "autoformer_tiny": ("autoformer_tiny_imagenet.csv", "autoprox_autoformer_tiny.csv"),
    "hytas": ("hytas_hyperspectral.csv",),
    "timm": ("timm_imagenet1k.csv",),
}
NO_VALUE = -1e8  # what the published code writes for a proxy that it could not compute
_FORMS = {  # what an architecture of a space looks like
    "nasbench201": r"\|.*~0\|\+\|",
    "nasbench101": r"[01]+(/[01]+)+ input,",
    "darts": r"normal .* reduce ",
    "transnasbench_micro": r"64-41414-\d_\d\d_\d\d\d$",
    "transnasbench_macro": r"64-\d+-basic$",
}
_NASBENCH101_OPS = ("input", "output", "maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")  # as NASLib numbers them
_TRANSNASBENCH = {"autoencoder", "class_object", "class_scene", "jigsaw", "normal", "room_layout", "segmentsemantic"}


def read(path: Path, space: str | None = None, trusted: bool = False) -> tuple[str | None, pd.DataFrame]:
    """Read a file or folder of any known format.

    Returns:
        The space (as given, or as recognised), and the table.

    Raises:
        InputError: it is of none of these formats, or damaged.
    """
    name = path.name.casefold()
    try:
        if path.is_dir() or name.endswith((".pbz2", ".pth", ".pt")):
            from lswag_hooks.nats import read_nats

            table = read_nats(path, trusted)
        elif name.endswith((".json", ".json.gz")):
            space, table = _read_json(path, space)
        elif name.endswith((".csv", ".csv.gz")):
            space, table = _read_csv(path, space)
        else:
            raise InputError("give a .csv, .json, .pickle.pbz2 or .pth file, or the folder of a NATS-Bench archive")
    except InputError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, zlib.error) as error:
        raise InputError(f"{path} cannot be read; it is damaged, or another format ({error!r}).") from error
    if space is None and len(table):
        first = str(table["architecture"].iloc[0])
        space = next((known for known, form in _FORMS.items() if re.match(form, first)), None)
    return space, table


def as_table(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A table with the tasks in lower case, and NaN where numbers are infinite or a mark for "no value"."""
    import pandas as pd

    table = pd.DataFrame(dict(columns)).reset_index(drop=True)
    table["task"] = table["task"].astype(str).str.lower()
    for name in table.columns.difference(["task", "architecture"]):
        values = pd.to_numeric(table[name], errors="coerce").astype(float)
        table[name] = values.where(np.isfinite(values) & (values != NO_VALUE))
    first = ["task", "architecture", "accuracy"]
    return table[[*first, *table.columns.difference(first, sort=False)]]


# ---------------------------------------------------------------------- tables


def _read_csv(path: Path, space: str | None) -> tuple[str | None, pd.DataFrame]:
    import pandas as pd

    raw = pd.read_csv(path)
    for needed, reader in _TABLES:
        if needed <= {*raw.columns}:
            own, table = reader(raw)
            return space if space is not None else own, table
    known = "; ".join(", ".join(sorted(needed)) for needed, _ in _TABLES)
    raise InputError(f"its columns are {', '.join(map(str, raw.columns))}, and these are known: {known}.")


def _suite_zero(raw: pd.DataFrame) -> tuple[None, pd.DataFrame]:
    return None, as_table(raw.rename(columns={"arch": "architecture", "val_accuracy": "accuracy"}))


def _autoformer(raw: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """AutoFormer networks: every column of accuracies is a task."""
    from lswag_hooks.spaces.autoformer import from_columns

    accuracies = [name for name in raw if str(name).endswith("_acc") or "top1" in str(name)]
    raw = raw.rename(columns={"hidden_dim": "embed_dim", "params_m": "params", "flops_m": "flops"})
    columns = (raw[name] for name in ("depth", "embed_dim", "num_heads", "mlp_ratio"))
    wide = raw[[name for name in ("params", "flops") if name in raw]].assign(
        architecture=[from_columns(*row) for row in zip(*columns, strict=True)]
    )
    return "autoformer_tiny", _stacked(wide, {name: raw[name] for name in accuracies})


def _hytas(raw: pd.DataFrame) -> tuple[None, pd.DataFrame]:
    columns = {"depth": "d", "embed_dim": "e", "num_heads": "h", "mlp_ratio": "r"}
    written = [letter + raw[name].astype(str) for name, letter in columns.items()]
    raw = raw.assign(architecture=[" ".join(row) for row in zip(*written, strict=True)])
    return None, as_table(
        raw.drop(columns=list(columns)).rename(columns={"dataset": "task", "overall_accuracy": "accuracy"})
    )


def _timm(raw: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    wide = raw[["param_count", "gmacs"]].rename(columns={"param_count": "params"})
    wide["architecture"] = "timm/" + raw["arch"].astype(str)
    return "timm", _stacked(wide, {"imagenet1k_max": raw["top1_max"], "imagenet1k_median": raw["top1_median"]})


def _stacked(wide: pd.DataFrame, accuracies: Mapping[str, pd.Series]) -> pd.DataFrame:
    """A row for each task and architecture, from a column for each task."""
    import pandas as pd

    return as_table(pd.concat([wide.assign(task=task, accuracy=values) for task, values in accuracies.items()]))


_TABLES: tuple[tuple[set[str], Callable[[pd.DataFrame], tuple[str | None, pd.DataFrame]]], ...] = (
    ({"task", "arch", "val_accuracy"}, _suite_zero),
    ({"dataset", "depth", "embed_dim", "num_heads", "mlp_ratio", "overall_accuracy"}, _hytas),
    ({"depth", "embed_dim", "num_heads", "mlp_ratio", "imagenet_top1_inherited"}, _autoformer),
    ({"depth", "hidden_dim", "num_heads", "mlp_ratio"}, _autoformer),
    ({"arch", "top1_max", "top1_median", "param_count", "gmacs"}, _timm),
)

# ---------------------------------------------------------------------- JSON of NASLib


def _read_json(path: Path, space: str | None) -> tuple[str | None, pd.DataFrame]:
    """``{task: {architecture: {"val_accuracy": ..., proxy: {"score": ..., "time": ...}}}}``.

    In place of what stands for an architecture there may also be its accuracy alone.
    """
    raw = path.read_bytes()
    tasks = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    if not isinstance(tasks, dict) or not all(isinstance(entries, dict) and entries for entries in tasks.values()):
        raise InputError("it is no mapping from tasks to mappings from architectures.")
    if space is None:
        space = _space_of_keys(tasks, path.name)
    rows = []
    for task, entries in tasks.items():
        for key, entry in entries.items():
            found = entry if isinstance(entry, dict) else {"val_accuracy": entry}
            scores = {name: value["score"] for name, value in found.items() if isinstance(value, dict)}
            rows.append(
                {"task": task, "architecture": _from_key(key, space), "accuracy": found["val_accuracy"], **scores}
            )
    import pandas as pd

    return space, as_table(pd.DataFrame(rows))


def _space_of_keys(tasks: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """Which space's tuples they are; None where the keys are no tuples."""
    keys = [key for entries in tasks.values() for key in entries]
    if not keys[0].startswith("("):
        return None
    first = ast.literal_eval(keys[0])
    if isinstance(first[0], tuple):
        return "darts"
    if len(first) > 6:
        return "nasbench101"
    if {*tasks} & _TRANSNASBENCH or "transbench" in name:
        # a cell has six edges of four operations; a macro skeleton up to six digits from 1 to 4, with 0 to fill up
        micro = all(len(key) == len("(0, 0, 0, 0, 0, 0)") and "4" not in key for key in keys)
        return "transnasbench_micro" if "micro" in name or (micro and "macro" not in name) else "transnasbench_macro"
    return "nasbench201"


def _from_key(key: str, space: str | None) -> str:
    """The string of an architecture that stands as NASLib's tuple of numbers; a string stays as it is."""
    if not key.startswith("("):
        return key
    numbers = ast.literal_eval(key)
    if space == "nasbench201":
        from lswag_hooks.spaces.nasbench201 import NASBench201

        return NASBench201.from_indices(numbers)
    if space == "darts":
        from lswag_hooks.spaces.darts_genotypes import from_compact

        return from_compact(numbers)
    if space == "nasbench101":
        return _nasbench101(numbers)
    if space == "transnasbench_micro" and len(numbers) == 6:
        return "64-41414-{}_{}{}_{}{}{}".format(*numbers)
    if space == "transnasbench_macro":
        return f"64-{''.join(str(number) for number in numbers if number)}-basic"
    raise InputError(f"the architecture {key} is no string, and space={space!r} has no way to read such numbers.")


def _nasbench101(numbers: Sequence[int]) -> str:
    """The matrix row by row, then the operations."""
    size = next((n for n in range(2, 8) if n * n + n == len(numbers)), None)
    if size is None or not {*numbers[-size:]} <= {*range(len(_NASBENCH101_OPS))}:
        raise InputError(f"{numbers} is no NAS-Bench-101 cell: a matrix of n x n and n numbers of operations.")
    rows = ["".join(map(str, numbers[size * row : size * (row + 1)])) for row in range(size)]
    return f"{'/'.join(rows)} {','.join(_NASBENCH101_OPS[number] for number in numbers[-size:])}"


def rows_to_table(rows: Iterable[tuple[str, str, float]]) -> pd.DataFrame:
    """A table of (task, architecture, accuracy)."""
    import pandas as pd

    return as_table(pd.DataFrame(list(rows), columns=["task", "architecture", "accuracy"]))
