"""Cells of NAS-Bench-101 as graphs: read from a string, pruned, relabelled, written; channels of their vertices."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.spaces.base import parsed

Matrix: TypeAlias = tuple[tuple[int, ...], ...]

OPS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
VERTICES = 7
MOST_EDGES = 9
PAIRS = tuple(itertools.combinations(range(VERTICES), 2))
EXAMPLE = (
    "0111010/0000001/0000001/0000100/0000001/0000001/0000000 "
    "input,conv1x1-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,maxpool3x3,output"
)

_FORM = re.compile(r"([01]+(?:/[01]+)*) ([^\s,]+(?:,[^\s,]+)*)")


class Spec(NamedTuple):
    """A cell: ``matrix[i][j]`` is 1 for an edge from vertex i to a later vertex j; ``ops`` has one entry a vertex."""

    matrix: Matrix
    ops: tuple[str, ...]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """All edges, by the vertex that they leave."""
        return [(i, j) for i, row in enumerate(self.matrix) for j, edge in enumerate(row) if edge]


@parsed
def read(architecture: str) -> Spec:
    """The cell as it is written.

    Raises:
        InputError: it is not in the published form, or an edge leads back.

    Example:
        >>> read("01/00 input,output")
        Spec(matrix=((0, 1), (0, 0)), ops=('input', 'output'))
    """
    match = _FORM.fullmatch(architecture) if isinstance(architecture, str) else None
    if match is None:
        raise InputError(f"{architecture!r} is no NAS-Bench-101 architecture: write it like {EXAMPLE!r}.")
    rows, ops = match[1].split("/"), tuple(match[2].split(","))
    vertices = len(rows)
    if not 2 <= vertices <= VERTICES or any(len(row) != vertices for row in rows) or len(ops) != vertices:
        raise InputError(
            f"{architecture!r} has {vertices} rows of {sorted({len(row) for row in rows})} digits and {len(ops)} "
            f"operations: n vertices, 2 to {VERTICES}, have n rows of n digits and n operations, as in {EXAMPLE!r}."
        )
    if (ops[0], ops[-1]) != ("input", "output"):
        raise InputError(f"{architecture!r}: operations begin with 'input' and end with 'output', as in {EXAMPLE!r}.")
    for op in ops[1:-1]:
        if op not in OPS:
            raise InputError(
                f"{architecture!r}: NAS-Bench-101 has no operation {op!r}.{near_matches(op, OPS)} "
                f"There are {', '.join(OPS)}."
            )
    for i, row in enumerate(rows):
        if "1" in row[: i + 1]:
            raise InputError(
                f"{architecture!r}: row {i} has an edge to vertex {row.index('1')}; edges lead to later vertices only."
            )
    return Spec(tuple(tuple(map(int, row)) for row in rows), ops)


@parsed
def pruned(architecture: str) -> Spec:
    """The cell without vertices that are on no path from input to output; if none is, those two without an edge.

    Raises:
        InputError: as :func:`read`, or more than nine edges are left.

    Example:
        >>> pruned("011/000/000 input,maxpool3x3,output").ops
        ('input', 'output')
    """
    spec = read(architecture)
    last = len(spec.ops) - 1
    reached, reaching = {0}, {last}
    for i, j in spec.edges:  # by source, so a vertex is known to be reached before its own edges come
        if i in reached:
            reached.add(j)
    for i, j in reversed(spec.edges):
        if j in reaching:
            reaching.add(i)
    kept = sorted(reached & reaching) if last in reached else [0, last]
    matrix = tuple(tuple(spec.matrix[i][j] for j in kept) for i in kept)
    rest = Spec(matrix, tuple(spec.ops[v] for v in kept))
    if len(rest.edges) > MOST_EDGES:
        raise InputError(
            f"{architecture!r} has {len(rest.edges)} edges after pruning; NAS-Bench-101 allows {MOST_EDGES}: "
            "take some away."
        )
    return rest


def relabelled(spec: Spec) -> Iterator[Spec]:
    """The same cell with its inner vertices in every order in which no edge leads back."""
    last = len(spec.ops) - 1
    for inner in itertools.permutations(range(1, last)):
        order = (0, *inner, last)
        matrix = tuple(tuple(spec.matrix[i][j] for j in order) for i in order)
        if not any(edge for i, row in enumerate(matrix) for edge in row[: i + 1]):
            yield Spec(matrix, tuple(spec.ops[v] for v in order))


def written(spec: Spec) -> str:
    """The string of a cell: what :func:`read` reads.

    Example:
        >>> written(Spec(((0, 1), (0, 0)), ("input", "output")))
        '01/00 input,output'
    """
    return "/".join("".join(map(str, row)) for row in spec.matrix) + " " + ",".join(spec.ops)


def vertex_channels(matrix: Matrix, in_channels: int, out_channels: int) -> list[int]:
    """Channels of each vertex of a pruned cell: those that feed the output share its channels.

    The first of them take what does not divide evenly. Any other inner vertex has as many as the widest that it feeds.

    Example:
        >>> vertex_channels(((0, 1, 1, 0), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)), 16, 33)
        [16, 17, 16, 33]
    """
    last = len(matrix) - 1
    feeding = [v for v in range(1, last) if matrix[v][last]]
    channels = [in_channels, *[0] * (last - 1), out_channels]
    for place, vertex in enumerate(feeding):
        share, rest = divmod(out_channels, len(feeding))
        channels[vertex] = share + (place < rest)
    for vertex in reversed(range(1, last)):
        if vertex not in feeding:
            channels[vertex] = max(channels[j] for j in range(vertex + 1, last) if matrix[vertex][j])
    return channels
