"""Files of NATS-Bench and NAS-Bench-201, read without their own packages, and without running what a pickle asks for.

Written from the layout that their public code reads (github.com/D-X-Y/NATS-Bench, github.com/D-X-Y/NAS-Bench-201).
"""

from __future__ import annotations

import bz2
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lswag_hooks.errors import InputError
from lswag_hooks.readers import rows_to_table

if TYPE_CHECKING:
    import pandas as pd

ARCHIVE = "*[0-9].pickle.pbz2"  # in a folder one file an architecture; beside them lies meta.pickle.pbz2
TASKS = {  # task -> what it was trained on, and which split it was measured on
    "cifar10": ("cifar10-valid", "x-valid"),
    "cifar100": ("cifar100", "x-valid"),
    "imagenet16-120": ("ImageNet16-120", "x-valid"),
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16-120_test": ("ImageNet16-120", "x-test"),
}
_EPOCHS = {"less": 12, "full": 200}  # what NAS-Bench-201 calls its two schedules; NATS-Bench writes the number
_PLAIN = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
}
_ADVICE = "If you trust its source, give trusted=True, which lets it run any code."


def read_nats(path: Path, trusted: bool = False) -> pd.DataFrame:
    """Validation and test accuracies after the longest training, averaged over the seeds of the weights.

    Args:
        path: the folder of an archive (much less memory), a ``.pickle.pbz2`` file, or a ``.pth`` file.
        trusted: read it even if it holds more than plain data.

    Raises:
        InputError: it is something else, or holds more than plain data.
    """
    if path.is_dir():
        files = sorted(path.glob(ARCHIVE))
        if not files:
            raise InputError(f"the folder has no file {ARCHIVE}, as NATS-Bench archives have.")
        return rows_to_table(row for file in files for row in _rows(_unpickled(file, trusted)))
    whole = _unpickled(path, trusted) if path.suffix == ".pbz2" else _torch_loaded(path, trusted)
    if not isinstance(whole, Mapping) or "arch2infos" not in whole:
        raise InputError("it has no 'arch2infos', as the files of NATS-Bench and NAS-Bench-201 have.")
    return rows_to_table(row for index in sorted(whole["arch2infos"]) for row in _rows(whole["arch2infos"][index]))


def _rows(schedules: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    longest = schedules[max(schedules, key=lambda name: _EPOCHS.get(name) or int(name))]
    for task, (trained_on, split) in TASKS.items():
        runs = [longest["all_results"][trained_on, seed] for seed in longest["dataset_seed"].get(trained_on, ())]
        values = [run["eval_acc1es"].get(f"{split}@{int(run['epochs']) - 1}") for run in runs]
        known = [float(value) for value in values if value is not None]
        if known:
            yield task, str(longest["arch_str"]), float(np.mean(known))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise InputError(f"the pickle asks for {module}.{name}, which is no plain data. {_ADVICE}")


def _unpickled(path: Path, trusted: bool) -> Any:
    with bz2.open(path) as file:
        try:
            return pickle.load(file) if trusted else _Unpickler(file).load()
        except pickle.UnpicklingError as error:
            raise InputError(f"{path.name} is no pickle: {error}.") from error


def _torch_loaded(path: Path, trusted: bool) -> Any:
    import torch

    scalar = np.float64(0).__reduce__()[0]
    plain: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype("f8"))]
    try:
        with torch.serialization.safe_globals(plain):
            return torch.load(path, map_location="cpu", weights_only=not trusted)
    except (pickle.UnpicklingError, RuntimeError) as error:
        advice = "" if trusted else f" {_ADVICE}"
        raise InputError(f"torch cannot load it as plain data: {str(error).strip().splitlines()[0]}{advice}") from error
