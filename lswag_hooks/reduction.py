"""A layer's per-sample gradients, tile by tile, reduced to what the proxies and the profile keep of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lswag_hooks.coverage import Coverage
from lswag_hooks.devices import double
from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.functional.lswag import logarithm
from lswag_hooks.hooks.rules import blocks
from lswag_hooks.hooks.rules.source import TILE_BYTES, GradientSource
from lswag_hooks.hooks.weights import LayerGradients
from lswag_hooks.profile import WeightRow
from lswag_hooks.proxies import Proxy
from lswag_hooks.stats import Moments, merge_moments, moments_of

if TYPE_CHECKING:
    from lswag_hooks.stats import GradientMoments


class LayerReduction:
    """Reduces a layer's per-sample gradients, tile by tile, to what the proxies and the profile keep of it."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self.proxies = proxies
        self.sums: list[Any] = [0.0] * len(proxies)
        self.size = self.alive = self.nonzero = 0
        self.inverse = self.largest = self.mean = self.deviation = self.variance = self.norm = 0.0

    def add(self, arrays: LayerArrays) -> None:
        """Fold in some weights of the layer."""
        for index, proxy in enumerate(self.proxies):
            self.sums[index] += proxy.part(arrays)
        if arrays.moments is None:
            return
        mean_abs, m2_abs = arrays.moments.mean_abs, arrays.moments.m2_abs
        total, largest = arrays.inverse
        self.inverse += total
        self.largest = max(self.largest, largest)
        self.mean += float(mean_abs.sum())
        self.deviation += arrays.deviation
        self.variance += float(m2_abs.sum()) / arrays.moments.samples
        self.alive += arrays.alive
        # what varies is not zero
        self.nonzero += arrays.alive if arrays.alive == mean_abs.numel() else int(torch.count_nonzero(mean_abs))

    def read(self, found: LayerGradients, needs: set[str], tile_bytes: int = TILE_BYTES) -> LayerWhole:
        """Fold in all tiles of a layer."""
        source = found.source
        assert source is not None
        self.size = source.rows * source.columns
        weight = source.arrange(found.weight) if needs & {"gradient", "channels"} else None
        if "moments" not in needs:
            for rows, _ in blocks(source, tile_bytes):
                gradient = source.block(slice(0, 1), rows)[0]
                self.add(LayerArrays(None if weight is None else weight[rows], gradient=gradient))
            return LayerWhole(self.size)
        self.norm = float(torch.linalg.vector_norm(found.weight))
        channels = _Channels(found, source.samples) if "channels" in needs else None
        for rows, moments in tile_moments(found, needs, tile_bytes, channels):
            self.add(LayerArrays(None if weight is None else weight[rows], moments, moments.mean))
        energy = None if channels is None else channels.squares() / source.samples
        return LayerWhole(self.size, energy, bias_moments(found, needs))

    def terms(self, whole: LayerWhole) -> list[float]:
        """Each proxy's term of the layer."""
        return [proxy.finish(total, whole) for proxy, total in zip(self.proxies, self.sums, strict=True)]

    def describe(self, row: WeightRow, coverage: Coverage) -> None:
        """What the profile shows of the layer's gradients."""
        row.trainability = logarithm(self.inverse)
        row.mean_gradient = self.mean / self.size
        row.mean_deviation = self.deviation / self.size
        row.sensitivity = self.norm * math.sqrt(self.variance / self.size)
        row.alive, row.zero = self.alive, self.size - self.nonzero
        row.largest_share = self.largest / self.inverse if self.inverse else 0.0
        if not row.alive:
            coverage.dead.append(row.name)
        if row.largest_share > 0.5 and row.alive > 1:
            coverage.largest_share[row.name] = row.largest_share


def tile_moments(
    found: LayerGradients, needs: set[str], tile_bytes: int, channels: _Channels | None = None, exact: bool = False
) -> Iterator[tuple[slice, Moments]]:
    """Moments of a layer over all samples, block of rows by block of rows; ``exact``: in double precision, to merge."""
    source = found.source
    assert source is not None
    signed = bool(needs & {"signed", "gradient"})
    weight = source.arrange(found.weight) if channels is not None else None
    zeros: dict[int, Moments] = {}
    for rows, sample_blocks in blocks(source, tile_bytes):
        if found.dead:
            count = rows.stop - rows.start
            zeros[count] = zeros.get(count) or _zero_moments(found.weight, source, count, signed, exact)
            yield rows, zeros[count]
            continue
        moments: Moments | None = None
        for samples in sample_blocks:
            tile = source.block(samples, rows)
            if channels is not None and weight is not None:
                channels.add(tile, weight[rows], samples, rows)
            part = moments_of(tile, signed, overwrite=True, partial=exact or len(sample_blocks) > 1)
            moments = part if moments is None else merge_moments(moments, part)
        assert moments is not None
        yield rows, moments if exact else moments.like(tile)


def _zero_moments(weight: Tensor, source: GradientSource, rows: int, signed: bool, exact: bool) -> Moments:
    zero = weight.new_zeros(rows, source.columns)
    zero = double(zero) if exact else zero
    return Moments(source.samples, zero, zero, *((zero, zero) if signed else ()))


def bias_moments(found: LayerGradients, needs: set[str]) -> Moments | None:
    """Moments of a layer's bias, if biases count and it has one."""
    if "biases" not in needs or found.outputs is None or found.bias is None:
        return None
    return moments_of(found.outputs(), bool(needs & {"signed", "gradient"}), overwrite=True)


class _Channels:
    """Sum over positions of activation times gradient: the weight's part from tiles, the bias's from the outputs."""

    def __init__(self, found: LayerGradients, samples: int) -> None:
        self.found, self.samples = found, samples
        self.out = found.weight.shape[0] if not found.inputs_first else found.weight.shape[1] * found.inputs_first
        self.sums = found.weight.new_zeros(samples, self.out)

    def add(self, tile: Tensor, weight: Tensor, samples: slice, rows: slice) -> None:
        """Fold in a tile of shape (samples, rows, columns)."""
        self.sums = self.sums.to(tile.dtype)
        if groups := self.found.inputs_first:  # rows are inputs, of one group after the other; columns are outputs
            inputs, outputs = self.found.weight.shape[0] // groups, self.found.weight.shape[1]
            parts = (tile * weight).unflatten(2, (outputs, -1)).sum(3)  # (samples, rows, outputs of a group)
            for row in range(rows.stop - rows.start):
                first = (rows.start + row) // inputs * outputs
                self.sums[samples, first : first + outputs] += parts[:, row]
            return
        part = torch.bmm(tile.transpose(0, 1), weight[:, :, None]).squeeze(2).T  # (samples, rows)
        first = rows.start % self.out
        self.sums[samples, first : first + part.shape[1]] += part

    def squares(self) -> Tensor:
        """Sum over samples of the square, for the gradient of the mean loss over these samples."""
        sums = self.sums
        if self.found.bias is not None and self.found.outputs is not None:
            sums = sums + self.found.outputs() * self.found.bias
        return (sums / self.samples).square().sum(0)


class LayerStore:
    """A layer's moments kept whole, for when samples come in several parts or in several processes."""

    def __init__(self, sync: bool) -> None:
        self.sync = sync
        self.moments = self._metric()
        self.bias = self._metric()
        self.energy: Tensor | None = None
        self.samples = 0
        self.weight: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        arrays = [state for name in ("mean_abs", "m2_abs", "mean", "m2") for state in getattr(self.moments, name)]
        return sum(array.numel() * array.element_size() for array in arrays)

    def _metric(self) -> GradientMoments:
        from lswag_hooks.stats import GradientMoments

        return GradientMoments(sync_on_compute=self.sync)

    def read(self, found: LayerGradients, needs: set[str], tile_bytes: int = TILE_BYTES) -> None:
        """Fold in the samples of one part."""
        source = found.source
        assert source is not None
        channels = _Channels(found, source.samples) if "channels" in needs else None
        pieces = [moments for _, moments in tile_moments(found, needs, tile_bytes, channels, exact=True)]
        self.moments.merge(join_rows(pieces))
        self.weight = source.arrange(found.weight)
        self.samples += source.samples
        if channels is not None:
            squares = channels.squares() * source.samples**2  # as if the loss were a sum, until all samples are known
            self.energy = squares if self.energy is None else self.energy + squares
        bias = bias_moments(found, needs)
        if bias is not None:
            self.bias.merge(bias)

    def reduce(self, reduction: LayerReduction) -> LayerWhole:
        """Fold everything seen, in every process if asked to, into a reduction."""
        assert self.weight is not None
        moments: Moments = self.moments.compute()
        reduction.size = self.weight.numel()
        reduction.norm = float(torch.linalg.vector_norm(self.weight))
        moments = moments.like(self.weight)
        reduction.add(LayerArrays(self.weight, moments, moments.mean))
        energy = None
        if self.energy is not None:
            energy = all_sum(self.energy) if self.sync else self.energy
            energy = energy / moments.samples**3
        return LayerWhole(reduction.size, energy, self.bias.compute() if self.bias.update_called else None)


def all_sum(tensor: Tensor) -> Tensor:
    """Sum over processes."""
    total = tensor.clone()
    torch.distributed.all_reduce(total)
    return total


def join_rows(pieces: Sequence[Moments]) -> Moments:
    """Moments of blocks of rows as those of the whole layer."""

    def column(name: str) -> Tensor | None:
        values = [getattr(piece, name) for piece in pieces]
        return None if values[0] is None else torch.cat(values)

    mean_abs, m2_abs = column("mean_abs"), column("m2_abs")
    assert mean_abs is not None and m2_abs is not None
    return Moments(pieces[0].samples, mean_abs, m2_abs, column("mean"), column("m2"))
