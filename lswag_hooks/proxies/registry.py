"""Names to proxies."""

from __future__ import annotations

from collections.abc import Sequence

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.proxies.base import NEEDS, Proxy

_REGISTRY: dict[str, type[Proxy]] = {}


def register_proxy(cls: type[Proxy]) -> type[Proxy]:
    """Class decorator: make a proxy known by its ``name``."""
    unknown = cls.needs - set(NEEDS)
    if unknown:
        raise InputError(f"proxy {cls.name!r} needs {sorted(unknown)}, which nothing provides: use {sorted(NEEDS)}.")
    _REGISTRY[cls.name] = cls
    return cls


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
