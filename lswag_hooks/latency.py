"""How long a network takes: measured, on the machine at hand, beside whatever is counted."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from lswag_hooks.devices import wait
from lswag_hooks.errors import InputError
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.images import Size
from lswag_hooks.proxies import Proxy
from lswag_hooks.spaces import Space


@dataclass(frozen=True)
class Latency(Proxy):
    """Seconds of one forward pass: the median of several, after some to warm up, in evaluation mode.

    It is measured at the image size of the task, however small the images are on which candidates are scored. No two
    measurements agree to the last bit: a search with a store takes each from there, once measured, and so ends where
    it would have ended undisturbed; without one, twice the same search need not end alike. It is no proxy of a network
    at hand, but kept like one: under its settings, and the machine's name.

    Args:
        samples: images in the batch.
        repeats: passes of which the median is taken.
        warmup: passes before these.
        device: where.
        threads: of torch; by default as many as it has.
        machine: a name for the hardware; by default that of its processor or GPU.
        image_size: by default that of the task.
        num_classes: by default those of the task.

    Raises:
        InputError: a number below 1, or a device that cannot be used.

    Example:
        >>> from lswag_hooks.spaces import get_space
        >>> space = get_space("nasbench201")
        >>> seconds = Latency(samples=2, repeats=3).measure(space, space.sample(0))
        >>> 0 < seconds < 60
        True
    """

    name: ClassVar[str] = "latency"
    higher_is_better: ClassVar[bool] = False
    reference: ClassVar[str] = "measured"
    summary: ClassVar[str] = "seconds of a forward pass, measured"
    samples: int = 1
    repeats: int = 10
    warmup: int = 3
    device: str = "cpu"
    threads: int | None = None
    machine: str | None = None
    image_size: Size | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "repeats", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"latency: {name}={value!r}: give one or more.")
        if self.warmup < 0:
            raise InputError(f"latency: warmup={self.warmup}: give none or more.")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError(f"latency: device {self.device!r} cannot be used: {str(error).splitlines()[0]}") from None
        if self.threads is None:
            object.__setattr__(self, "threads", torch.get_num_threads())
        if self.machine is None:
            object.__setattr__(self, "machine", machine_name(self.device))

    def measure(self, space: Space, architecture: str, task: str | None = None) -> float:
        """Build an architecture and measure it."""
        model = space.build(architecture, self.num_classes, task=task, image_size=self.image_size, seed=0)
        shape = space.input_shape(task, self.image_size)
        device = torch.device(self.device)
        images = torch.zeros(self.samples, *shape, device=device)
        model.to(device)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads or before)
            with ProbeSession(model, "eval"), torch.inference_mode():
                return median_seconds(lambda: model(images), device, self.repeats, self.warmup)
        finally:
            torch.set_num_threads(before)


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int = 10, warmup: int = 3) -> float:
    """Median seconds of a call, after some that do not count; a GPU is waited for.

    Example:
        >>> 0.01 <= median_seconds(lambda: time.sleep(0.01), torch.device("cpu"), repeats=3) < 1
        True
    """
    seconds = []
    for _ in range(warmup + repeats):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warmup:])


def machine_name(device: str = "cpu") -> str:
    """The model of the processor or GPU."""
    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_name(torch.device(device)))
    known = Path("/proc/cpuinfo")
    lines = known.read_text(errors="replace").splitlines() if known.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
