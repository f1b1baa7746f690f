"""Names to proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar, overload

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.proxies.base import NEEDS, Missing, Observation, Proxy

_REGISTRY: dict[str, type[Proxy]] = {}

P = TypeVar("P", bound=type[Proxy])
Formula: TypeAlias = Callable[[Observation], "float | Missing"]


@overload
def register_proxy(target: P) -> P: ...
@overload
def register_proxy(target: Formula) -> type[Proxy]: ...
@overload
def register_proxy(
    *,
    needs: Iterable[str] = ...,
    name: str | None = ...,
    higher_is_better: bool = ...,
    reference: str = ...,
    summary: str | None = ...,
) -> Callable[[Formula], type[Proxy]]: ...
def register_proxy(
    target: Any = None,
    *,
    needs: Iterable[str] = ("moments",),
    name: str | None = None,
    higher_is_better: bool = True,
    reference: str = "",
    summary: str | None = None,
) -> Any:
    """Decorator: make a proxy of a function, or make a class of proxies known by its ``name``.

    A function takes the :class:`~lswag_hooks.proxies.Observation` of a network, all that the passes showed, and returns
    the score, or :class:`~lswag_hooks.proxies.Missing` with the reason. It becomes a class of proxies:
    ``function(label="mine")`` is one with another label. A class declares itself what the other arguments say.

    Args:
        target: the function or class, if the decorator is written without arguments.
        needs: what the function looks at: keys of ``lswag_hooks.proxies.NEEDS`` other than passes of their own.
        name: what to call the proxy; by default the function's name.
        higher_is_better: which way networks are ranked.
        reference: where the formula is from.
        summary: what it is; by default the first line of the docstring.

    Raises:
        InputError: it needs something that nothing provides.

    Example:
        >>> @register_proxy(needs={"moments"})
        ... def first_gradients(seen):
        ...     '''Mean absolute gradient of the first two layers.'''
        ...     return sum(layer.mean_gradient for layer in seen.profile.weights[:2])
        >>> first_gradients().summary, "first_gradients" in list_proxies()
        ('Mean absolute gradient of the first two layers.', True)
        >>> del _REGISTRY["first_gradients"]
    """
    if target is None:
        options: dict[str, Any] = {
            "name": name,
            "higher_is_better": higher_is_better,
            "reference": reference,
            "summary": summary,
        }
        return lambda function: _registered(_made(function, needs, **options))
    return _registered(target if isinstance(target, type) else _made(target, needs))


def _registered(cls: type[Proxy]) -> type[Proxy]:
    unknown = cls.needs - set(NEEDS)
    if unknown:
        raise InputError(f"proxy {cls.name!r} needs {sorted(unknown)}, which nothing provides: use {sorted(NEEDS)}.")
    _REGISTRY[cls.name] = cls
    return cls


def _made(function: Formula, needs: Iterable[str], name: str | None = None, **options: Any) -> type[Proxy]:
    """A class of proxies whose score is a function; under the function's name, so that workers find it."""
    if not callable(function):
        raise InputError(f"register_proxy takes a function or a class, got {function!r}.")
    options = {key: value for key, value in options.items() if value is not None}
    members = {
        "name": name or function.__name__,
        "needs": frozenset([needs] if isinstance(needs, str) else needs),
        "summary": "".join((function.__doc__ or "").strip().splitlines()[:1]),
        "total": lambda self, seen: function(seen),
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
    }
    return type(function.__name__, (Proxy,), members | options)


def list_proxies() -> list[str]:
    """Names of all proxies.

    Example:
        >>> "lswag" in list_proxies()
        True
    """
    return list(_REGISTRY)


def proxy_class(name: str) -> type[Proxy]:
    """The class of a proxy by its name."""
    if name not in _REGISTRY:
        raise InputError(f"unknown proxy {name!r}.{near_matches(name, _REGISTRY)} Known: {', '.join(_REGISTRY)}.")
    return _REGISTRY[name]


def resolve_proxies(proxies: str | Proxy | Sequence[str | Proxy]) -> list[Proxy]:
    """Proxies from names, instances, or ``"all"``; a string may list several, separated by commas.

    Raises:
        InputError: an unknown name (with near matches), none at all, or two results of the same name.
    """
    if isinstance(proxies, (str, Proxy)):
        proxies = [proxies]
    if not isinstance(proxies, Iterable):
        raise InputError(f"proxies={proxies!r}: give names such as 'lswag', proxies, or a list of them.")
    found: list[Proxy] = []
    for entry in proxies:
        if isinstance(entry, Proxy):
            found.append(entry)
        elif isinstance(entry, str):
            names = [name.strip() for name in entry.split(",") if name.strip()]
            for name in list_proxies() if names == ["all"] else names:
                found.append(proxy_class(name)())
        else:
            raise InputError(f"a proxy is a name or a Proxy, got {entry!r}: see lswag_hooks.list_proxies().")
    if not found:
        raise InputError("no proxy was asked for: give a name such as 'lswag'.")
    keys = [proxy.key for proxy in found]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"two proxies would both be called {key!r}: give one of them a label=.")
    return found
