"""LIBRAs that come with this package, fitted to published tables."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.wording import named

FOLDER = resources.files("lswag_hooks") / "data" / "libra"


def list_fitted() -> list[str]:
    """Names of the fitted LIBRAs that come with this package, for :meth:`Libra.load`.

    ``BENCHMARK/TASK`` is :class:`Libra`, the paper's rule, with its default options; ``BENCHMARK/TASK/checked`` is
    :class:`LibraChecked`. Both were fitted to all rows of a published table, which :meth:`Libra.report` names, and
    merge proxies that :func:`~lswag_hooks.rank` can compute.

    Example:
        >>> [name for name in list_fitted() if name.startswith("nasbench201")]
        ['nasbench201/cifar10', 'nasbench201/cifar10/checked']
    """
    files = [Path(entry.name) for entry in FOLDER.iterdir() if entry.name.endswith(".json")] if FOLDER.is_dir() else []
    return sorted(name.stem.replace(".", "/") for name in files)


def read_fitted(name_or_path: str | Path) -> str:
    """The JSON text of a name or of a file.

    Raises:
        InputError: there is neither.
    """
    name = str(name_or_path)
    if name in (known := list_fitted()):
        return (FOLDER / f"{name.replace('/', '.')}.json").read_text(encoding="utf-8")
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    raise InputError(
        f"there is no fitted LIBRA {name!r}.{near_matches(name, known)} Give a file that save() wrote, or a name that "
        f"list_fitted() knows: {named(known)}."
    )
