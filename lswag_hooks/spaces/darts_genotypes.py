"""Genotypes of DARTS: the strings of NAS-Bench-301, its compact form, and the tuples of DARTS-like code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.spaces.base import parsed
from lswag_hooks.spaces.darts_network import NODES, OPERATIONS, Edge

Compact: TypeAlias = tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]

CELLS = ("normal", "reduce")

GENOTYPES = {
    "DARTS_V2": (
        "normal sep_conv_3x3~0 sep_conv_3x3~1 sep_conv_3x3~0 sep_conv_3x3~1 "
        "sep_conv_3x3~1 skip_connect~0 skip_connect~0 dil_conv_3x3~2 "
        "reduce max_pool_3x3~0 max_pool_3x3~1 skip_connect~2 max_pool_3x3~1 "
        "max_pool_3x3~0 skip_connect~2 skip_connect~2 max_pool_3x3~1"
    ),
    "PC_DARTS_CIFAR": (
        "normal sep_conv_3x3~1 skip_connect~0 sep_conv_3x3~0 dil_conv_3x3~1 "
        "sep_conv_5x5~0 sep_conv_3x3~1 avg_pool_3x3~0 dil_conv_3x3~1 "
        "reduce sep_conv_5x5~1 max_pool_3x3~0 sep_conv_5x5~1 sep_conv_5x5~2 "
        "sep_conv_3x3~0 sep_conv_3x3~3 sep_conv_3x3~1 sep_conv_3x3~2"
    ),
    "PC_DARTS_IMAGENET": (
        "normal skip_connect~1 sep_conv_3x3~0 sep_conv_3x3~0 skip_connect~1 "
        "sep_conv_3x3~1 sep_conv_3x3~3 sep_conv_3x3~1 dil_conv_5x5~4 "
        "reduce sep_conv_3x3~0 skip_connect~1 dil_conv_5x5~2 max_pool_3x3~1 "
        "sep_conv_3x3~2 sep_conv_3x3~1 sep_conv_5x5~0 sep_conv_3x3~3"
    ),
    "TE_NAS_CIFAR": (
        "normal dil_conv_3x3~0 sep_conv_5x5~1 sep_conv_3x3~0 sep_conv_3x3~2 "
        "skip_connect~0 dil_conv_5x5~1 sep_conv_3x3~1 sep_conv_5x5~3 "
        "reduce sep_conv_5x5~0 sep_conv_5x5~1 sep_conv_5x5~1 sep_conv_5x5~2 "
        "sep_conv_3x3~1 sep_conv_3x3~3 sep_conv_5x5~2 sep_conv_3x3~4"
    ),
    "TE_NAS_IMAGENET": (
        "normal sep_conv_3x3~0 skip_connect~1 dil_conv_5x5~1 sep_conv_3x3~2 "
        "sep_conv_3x3~0 dil_conv_5x5~3 sep_conv_3x3~0 dil_conv_3x3~4 "
        "reduce dil_conv_3x3~0 sep_conv_5x5~1 dil_conv_3x3~0 sep_conv_3x3~2 "
        "sep_conv_3x3~0 dil_conv_3x3~1 sep_conv_3x3~0 sep_conv_5x5~4"
    ),
}


@dataclass(frozen=True)
class Genotype:
    """A genotype of DARTS: for both cell types eight pairs (operation, source), two for each of the nodes 2 to 5.

    Has the attributes of the ``Genotype`` tuples in DARTS-like code. ``str`` gives NAS-Bench-301's string.

    Raises:
        InputError: not eight edges, an unknown operation, or sources that a node does not have or has twice.

    Example:
        >>> genotype = parse(GENOTYPES["DARTS_V2"])
        >>> genotype.normal[:2], list(genotype.normal_concat)
        ((('sep_conv_3x3', 0), ('sep_conv_3x3', 1)), [2, 3, 4, 5])
        >>> str(genotype) == GENOTYPES["DARTS_V2"]
        True
    """

    normal: tuple[Edge, ...]
    reduce: tuple[Edge, ...]

    def __post_init__(self) -> None:
        for cell in CELLS:
            _check_cell(cell, getattr(self, cell))

    @property
    def normal_concat(self) -> range:
        """The nodes that make up a normal cell's output."""
        return range(2, 6)

    @property
    def reduce_concat(self) -> range:
        """The nodes that make up a reduction cell's output."""
        return range(2, 6)

    def __str__(self) -> str:
        return " ".join(" ".join([cell, *(f"{name}~{i}" for name, i in getattr(self, cell))]) for cell in CELLS)


def from_genotype(genotype: Any) -> str:
    """The string of a ``Genotype`` as DARTS-like code has it.

    Args:
        genotype: anything with ``normal`` and ``reduce``, each of eight pairs (operation, source).

    Raises:
        InputError: it is none, or another number of nodes is concatenated.
    """
    try:
        cells = [tuple((str(name), int(i)) for name, i in getattr(genotype, cell)) for cell in CELLS]
        concats = [list(getattr(genotype, f"{cell}_concat", NODES)) for cell in CELLS]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{genotype!r} is no genotype ({error}): it needs normal and reduce, each of eight (operation, source)."
        ) from error
    if any(concat != list(NODES) for concat in concats):
        raise InputError(f"the genotype concatenates the nodes {concats}: this space knows only all four, 2 to 5.")
    return str(Genotype(*cells))


def from_compact(compact: Sequence[Sequence[Sequence[int]]]) -> str:
    """The string of NAS-Bench-301's compact form.

    Args:
        compact: for both cell types eight pairs (source, number of the operation).

    Raises:
        InputError: it is none.

    Example:
        >>> from_compact(to_compact(GENOTYPES["DARTS_V2"])) == GENOTYPES["DARTS_V2"]
        True
    """
    try:
        pairs = [[(int(i), int(number)) for i, number in cell] for cell in compact]
    except (TypeError, ValueError) as error:
        raise InputError(f"{compact!r} is no compact form: give two tuples of eight (source, operation).") from error
    unknown = [number for cell in pairs for _, number in cell if not 0 <= number < len(OPERATIONS)]
    if len(pairs) != 2 or unknown:
        raise InputError(
            f"{compact!r} is no compact form: give two tuples of eight (source, operation), operations 0 to "
            f"{len(OPERATIONS) - 1}: {', '.join(OPERATIONS)}."
        )
    return str(Genotype(*(tuple((OPERATIONS[number], i) for i, number in cell) for cell in pairs)))


def to_compact(architecture: str) -> Compact:
    """NAS-Bench-301's compact form: for both cell types eight pairs (source, number of the operation).

    Example:
        >>> to_compact(GENOTYPES["DARTS_V2"])[1][:2]
        ((0, 0), (1, 0))
    """
    genotype = parse(architecture)
    normal, reduce = (
        tuple((i, OPERATIONS.index(name)) for name, i in cell) for cell in (genotype.normal, genotype.reduce)
    )
    return normal, reduce


def parse(architecture: str) -> Genotype:
    """Read a string of NAS-Bench-301.

    Raises:
        InputError: it is none; says what is wrong.
    """
    return _parse(str(architecture))


@parsed
def _parse(architecture: str) -> Genotype:
    words = architecture.split()
    if len(words) != 18 or words[0] != "normal" or words[9] != "reduce":
        raise InputError(
            f"{architecture!r} is no DARTS architecture: write 'normal', eight operations with their sources, 'reduce' "
            f"and eight more, as in '{GENOTYPES['DARTS_V2']}'."
        )
    cells = []
    for start in (1, 10):
        parts = [word.partition("~") for word in words[start : start + 8]]
        bad = [f"{name}{mark}{source}" for name, mark, source in parts if not (source.isascii() and source.isdigit())]
        if bad:
            raise InputError(f"{bad[0]!r} is no edge: write an operation and its source, as in 'sep_conv_3x3~0'.")
        cells.append(tuple((name, int(source)) for name, _, source in parts))
    return Genotype(*cells)


def by_node(edges: tuple[Edge, ...]) -> list[tuple[int, tuple[Edge, ...]]]:
    """The nodes of a cell, each with its two edges."""
    return [(node, edges[2 * place : 2 * place + 2]) for place, node in enumerate(NODES)]


def _check_cell(cell: str, edges: tuple[Edge, ...]) -> None:
    if len(edges) != 2 * len(NODES):
        raise InputError(f"the {cell} cell has {len(edges)} edges: give eight, two for each of the nodes 2 to 5.")
    for node, pair in by_node(edges):
        for name, source in pair:
            if name not in OPERATIONS:
                raise InputError(
                    f"{name!r} in the {cell} cell is no operation of DARTS.{near_matches(name, OPERATIONS)} "
                    f"They are: {', '.join(OPERATIONS)}."
                )
            if not 0 <= source < node:
                raise InputError(f"node {node} of the {cell} cell takes {name}~{source}: sources are 0 to {node - 1}.")
        if pair[0][1] == pair[1][1]:
            raise InputError(f"node {node} of the {cell} cell has the source {pair[0][1]} twice: give two.")
