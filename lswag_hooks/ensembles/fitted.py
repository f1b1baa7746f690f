"""LIBRAs that come with this package, fitted to published tables."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from lswag_hooks.errors import InputError, near_matches

FOLDER = resources.files("lswag_hooks") / "data" / "libra"


def list_fitted() -> list[str]:
    """Names of the fitted LIBRAs that come with this package, for :meth:`Libra.load`.

    ``SPACE/TASK`` is the paper's rule on all published proxies; ``SPACE/TASK/checked`` is :class:`LibraChecked` on the
    same; ``SPACE/TASK/own`` is :class:`LibraChecked` on the proxies that this package computes, so that it can rank
    what :func:`~lswag_hooks.rank` scored.

    Example:
        >>> [name for name in list_fitted() if name.startswith("nasbench201")]
        ['nasbench201/cifar10', 'nasbench201/cifar10/checked', 'nasbench201/cifar10/own']
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
        f"there is no fitted LIBRA {name!r}.{near_matches(name, known)} Give a file that save() wrote, or one of: "
        f"{', '.join(known)}."
    )
