"""What a search space is: one function that composes an architecture from choices, and one that builds it.

Everything else follows from the choices: sampling draws them, mutation replays those of a parent and draws some anew,
crossover takes each from one of two parents, neighbours change one, and Optuna suggests them.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from torch import nn

from lswag_hooks.errors import InputError, LSWAGError, near_matches
from lswag_hooks.images import Size, image_shape
from lswag_hooks.rng import seeded
from lswag_hooks.spaces.counting import Cost, count

if TYPE_CHECKING:
    from lswag_hooks.batch import Batch

T = TypeVar("T", bound=Hashable)
Gene: TypeAlias = Any  # an int, float or string
Genes: TypeAlias = dict[str, Gene]
Choose: TypeAlias = Callable[[str, Sequence[Any]], Any]

TRIES = 10_000  # draws before a constraint is called impossible


class Space(abc.ABC):
    """A search space.

    An architecture is the string of the published benchmark, and :meth:`parse` reads it into the space's own
    immutable description. A space is written by :meth:`compose` and its inverse :meth:`genes`, by :meth:`parse` and
    :meth:`make`.

    Class attributes: ``name``; ``tasks``, the first of which is the default, each with its number of outputs; the
    image shape of each task; ``reference``; ``rates``, the chance that mutation draws a gene anew, by the first word
    of its name (a space without rates changes exactly one).
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    tasks: ClassVar[Mapping[str, int]]
    image_shapes: ClassVar[Mapping[str, tuple[int, ...]]]
    rates: ClassVar[Mapping[str, float]] = {}

    # ------------------------------------------------------------------ what each space writes

    @abc.abstractmethod
    def compose(self, choose: Choose) -> str:
        """Write an architecture from choices: ``choose(name, options)`` returns one of the options.

        Which choices there are may depend on earlier ones; a name always comes with the same options.
        """

    @abc.abstractmethod
    def genes(self, architecture: str) -> Genes:
        """The choices that compose an architecture (or one that stands for it), by name, in order."""

    @abc.abstractmethod
    def parse(self, architecture: str) -> Any:
        """Read an architecture into the space's own description.

        Raises:
            InputError: it is no architecture of this space; says what is wrong and shows one.
        """

    @abc.abstractmethod
    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """The network, its weights drawn from the global random state; what :meth:`build` calls."""

    @abc.abstractmethod
    def encode(self, architecture: str) -> np.ndarray:
        """The architecture as a vector of fixed length, float64, for predictors and clustering."""

    @property
    def size(self) -> int | None:
        """Number of architecture strings, None where nobody has counted them."""
        return None

    def __iter__(self) -> Iterator[str]:
        """All architectures, where they are few enough to be listed."""
        raise InputError(f"{self.name} is too large to be listed: use sample().")

    def degenerate(self, architecture: str) -> str | None:
        """Why a well-formed architecture cannot work, or None: disconnected, or constant in its input."""
        return None

    def random(self, rng: np.random.Generator) -> str:
        """Draw one architecture, degenerate ones included: every choice uniformly, unless the space says otherwise."""
        return self.compose(_drawing(rng))

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """What :meth:`cost` gives; by default from a network built without values, on the meta device."""
        with torch.device("meta"):
            model = self.make(architecture, num_classes, task, image_shape)
            images = torch.empty(1, *image_shape)
        return count(model.eval(), images)

    # ------------------------------------------------------------------ what every space gets

    def build(
        self,
        architecture: str,
        num_classes: int | None = None,
        *,
        task: str | None = None,
        image_size: Size | None = None,
        seed: int | None = None,
    ) -> nn.Module:
        """Build an architecture's network.

        Args:
            architecture: as published.
            num_classes: number of outputs; by default the task's.
            task: one of ``tasks``; by default the first.
            image_size: by default the task's.
            seed: the same seed gives the same weights, whatever was drawn before; None: from the global random state.

        Raises:
            InputError: no such architecture or task, or a size that the network cannot take.
        """
        asked = self._asked(num_classes, task, image_size)
        if seed is None:
            return self.make(architecture, *asked)
        with seeded(seed):
            return self.make(architecture, *asked)

    def cost(
        self,
        architecture: str,
        num_classes: int | None = None,
        *,
        task: str | None = None,
        image_size: Size | None = None,
    ) -> Cost:
        """Parameters, flops as published and multiply-accumulates, without building weights.

        Args:
            architecture: as published.
            num_classes: number of outputs; by default the task's.
            task: one of ``tasks``; by default the first.
            image_size: by default the task's.

        Raises:
            InputError: no such architecture or task, or a size that the network cannot take.
        """
        return self.counted(architecture, *self._asked(num_classes, task, image_size))

    def validate(self, architecture: str) -> str | None:
        """Why an architecture cannot work (disconnected, constant in its input), or None.

        Raises:
            InputError: it is no architecture of this space at all.
        """
        self.parse(architecture)
        return self.degenerate(architecture)

    def sample(self, rng: np.random.Generator | int | None = None) -> str:
        """Draw an architecture that works, uniformly over the choices.

        Args:
            rng: a NumPy generator, or a seed.
        """
        generator = np.random.default_rng(rng)
        return self._working(lambda: self.random(generator))

    def mutate(self, architecture: str, rng: np.random.Generator | int | None = None) -> str:
        """Draw some of an architecture's choices anew; the result differs from it and works."""
        generator = np.random.default_rng(rng)
        parent = self.genes(architecture)
        origin = self.compose(_replaying(parent, _drawing(generator)))

        def attempt() -> str:
            if self.rates:
                changed = {name for name in parent if generator.random() < self.rates[name.split(" ")[0]]}
            else:
                changed = {list(parent)[generator.integers(len(parent))]}

            def choose(name: str, options: Sequence[Any]) -> Any:
                if name in parent and name not in changed:
                    return parent[name]
                others = [option for option in options if option != parent.get(name)]
                # with rates a gene drawn anew may be what it was, as in the published code
                return _draw(options if self.rates or not others else others, generator)

            return self.compose(choose)

        return self._working(attempt, {architecture, origin})

    def crossover(self, first: str, second: str, rng: np.random.Generator | int | None = None) -> str:
        """Take each choice from one of two parents, with equal chance."""
        generator = np.random.default_rng(rng)
        parents = self.genes(first), self.genes(second)

        def choose(name: str, options: Sequence[Any]) -> Any:
            held = [parent[name] for parent in parents if name in parent]
            return _draw(held or options, generator)

        return self._working(lambda: self.compose(choose))

    def neighbours(self, architecture: str) -> Iterator[str]:
        """All working architectures that differ in one choice, each once; choices that this opens take every value."""
        own = self.genes(architecture)
        seen = {architecture, self.compose(_replaying(own, _first))}
        for changed in own:
            for composed in self._variants(own, changed):
                if composed not in seen:
                    seen.add(composed)
                    if self._works(composed):
                        yield composed

    def as_optuna(self, trial: Any) -> str:
        """Compose an architecture from an Optuna trial's suggestions.

        Raises:
            optuna.TrialPruned: the suggestions make an architecture that cannot work.
        """
        architecture = self.compose(lambda name, options: trial.suggest_categorical(name, list(options)))
        reason = self._reason(architecture)
        if reason is not None:
            import optuna

            raise optuna.TrialPruned(f"{architecture}: {reason}")
        return architecture

    def check_task(self, task: str | None) -> str:
        """The task, or the first for None; refuses one that the space does not have."""
        if task is None:
            return next(iter(self.tasks))
        if task not in self.tasks:
            raise InputError(
                f"{self.name} has no task {task!r}.{near_matches(task, self.tasks)} It has: {', '.join(self.tasks)}."
            )
        return task

    def objective(self, task: str | None = None) -> Any:
        """The task's loss, to be passed to ``score(..., loss=)``; None stands for cross-entropy."""
        self.check_task(task)
        return None

    def batch(self, images: Batch, task: str | None = None, seed: int = 0) -> Batch:
        """Images and labels as the task wants them; most tasks take them as they are."""
        self.check_task(task)
        return images

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _asked(
        self, num_classes: int | None, task: str | None, image_size: Size | None
    ) -> tuple[int, str, tuple[int, ...]]:
        """Number of outputs, task and shape of the images, what was not given taken from the task."""
        task = self.check_task(task)
        classes = self.tasks[task] if num_classes is None else num_classes
        if classes < 1:
            raise InputError(f"num_classes={num_classes}: give one or more.")
        return classes, task, self.input_shape(task, image_size)

    def input_shape(self, task: str | None = None, image_size: Size | None = None) -> tuple[int, ...]:
        """Shape of one input of a task, (channels, height, width), with the jigsaw's pieces before it."""
        own = self.image_shapes[self.check_task(task)]
        return own if image_size is None else (*own[:-3], *image_shape(image_size))

    def _reason(self, architecture: str) -> str | None:
        try:
            return self.validate(architecture)
        except LSWAGError as error:
            return str(error)

    def _works(self, architecture: str) -> bool:
        return self._reason(architecture) is None

    def _working(self, attempt: Callable[[], str], excluded: Iterable[str] = ()) -> str:
        barred = set(excluded)
        for _ in range(TRIES):
            architecture = attempt()
            if architecture not in barred and self._works(architecture):
                return architecture
        raise InputError(f"{self.name}: no working architecture in {TRIES} draws.")

    def _variants(self, own: Genes, changed: str) -> Iterator[str]:
        """Architectures with one gene changed; genes that appear with the change run over all their options."""
        pending: list[Genes] = [{}]
        while pending:
            fixed = pending.pop()
            opened: list[tuple[str, Sequence[Any]]] = []

            def choose(name: str, options: Sequence[Any]) -> Any:
                if name in fixed:  # noqa: B023 - called before the next turn
                    return fixed[name]  # noqa: B023
                if name == changed or name not in own:
                    if not opened:  # noqa: B023
                        rest = [o for o in options if name != changed or o != own[name]]
                        opened.append((name, rest))  # noqa: B023
                    return options[0]
                return own[name]

            composed = self.compose(choose)
            if opened:
                name, options = opened[0]
                pending += [{**fixed, name: option} for option in reversed(options)]
            elif changed in fixed:
                yield composed


def option_index(options: Sequence[T], value: T) -> int:
    """Position of a value among the options.

    Raises:
        InputError: it is none of them.
    """
    if value not in options:
        raise InputError(f"{value!r} is none of {', '.join(map(str, options))}.")
    return list(options).index(value)


def _draw(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _drawing(rng: np.random.Generator) -> Choose:
    return lambda _, options: _draw(options, rng)


def _first(name: str, options: Sequence[Any]) -> Any:
    return options[0]


def _replaying(genes: Genes, otherwise: Choose) -> Choose:
    return lambda name, options: genes[name] if name in genes else otherwise(name, options)


parsed = functools.lru_cache(maxsize=4096)  # for a space's own parser: a string is asked about many times
