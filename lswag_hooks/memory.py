"""How much memory a score may take, and what it did take."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from lswag_hooks.errors import InputError

SHARE = 0.6  # of what is free, for the outputs that a forward pass holds: the rest is for gradients and statistics
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(value: int | float | str | None) -> int | None:
    """A number of bytes from a number or a string such as "4GiB", "500 MB", "2g".

    Example:
        >>> parse_bytes("1.5k"), parse_bytes(None)
        (1536, None)
    """
    if value is None:
        return None
    given = value
    if isinstance(value, str):
        text = value.strip().lower().removesuffix("b").removesuffix("i")
        factor = _UNITS.get(text[-1:], 1)
        number = text[:-1] if text[-1:] in _UNITS else text
        try:
            value = float(number) * factor
        except ValueError:
            value = -1
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"max_memory={given!r}: give bytes as a positive number, or a string such as '4GB'.")
    return int(value)


def free_bytes(device: torch.device) -> int | None:
    """Free memory on a device, with what PyTorch holds of it for no tensor; None where nothing tells."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    if device.type != "cpu":
        return None
    left = [bytes_left for bytes_left in (_machine_bytes(), container_bytes()) if bytes_left is not None]
    return max(0, min(left)) if left else None


def container_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of a container leaves, file caches not counted; None without a limit."""
    for folder, limit, usage in (
        (root, "memory.max", "memory.current"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # not there, or "max"
            continue
        return most - used + int(stat.get("inactive_file", 0))
    return None


def _machine_bytes() -> int | None:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None


def budget(device: torch.device, maximum: int | None) -> int | None:
    """Bytes of outputs that a forward pass may hold."""
    if maximum is not None:
        return maximum
    free = free_bytes(device)
    return None if free is None else int(free * SHARE)
