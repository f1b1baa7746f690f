r"""Convolutions of one to three dimensions, ordinary and transposed, grouped, dilated, strided.

Two exact routes, chosen by shape (measured on one core with oneDNN, see ``benchmarks/``):

- *grouped*: the samples become groups of one convolution, whose weight gradient is then per sample. The library's own
  kernel does all the work; it is as fast as the ordinary weight gradient for few channels, and covers every option.
  Where a sample has several rows, the ordinary weight gradient of each sample's rows.
- *shifted*: many channels. The input is laid out once with what the kernel's last axis sees at every position, so that
  each offset in the other axes is a plain strided view of it: one batched product a row of the kernel, a third of
  im2col's memory for 3x3, and rows can be cut into tiles. A stride splits the input into as many phases first.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lswag_hooks.hooks.rules.linear import LinearGradient
from lswag_hooks.hooks.rules.source import GradientSource

WIDE = 64  # input channels from which batched products beat a grouped convolution
LAID_OUT = 64 << 20  # bytes of an input laid out for a whole row of the kernel; a larger one is copied once


@dataclass(frozen=True)
class ConvOptions:
    """Geometry of one convolution call."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False


@dataclass
class GroupedConvGradient:
    """Per-sample weight gradients by one convolution whose groups are the samples.

    Args:
        inputs: shape (samples * blocks, channels, ...); ``blocks`` consecutive rows belong to one sample.
        gradients: of the outputs, shape (samples * blocks, out channels, ...).
        weight: for its shape only.
        options: geometry.
        samples: how many samples the rows hold.
    """

    inputs: Tensor
    gradients: Tensor
    weight: Tensor
    options: ConvOptions
    samples: int

    def __post_init__(self) -> None:
        self.rows = self.weight.shape[0]
        self.columns = self.weight[0].numel()
        self.row_group = 0
        self.device_bytes = self.inputs.element_size()
        self.blocks_per_sample = len(self.inputs) // self.samples

    def block(self, samples: slice, rows: slice) -> Tensor:
        per = self.blocks_per_sample
        if per == 1:
            return self._gradients(samples, samples.stop - samples.start)
        # windows, regions, a batch taken as one: an ordinary gradient adds the rows up, and writes none of each
        firsts = range(samples.start * per, samples.stop * per, per)
        return torch.cat([self._gradients(slice(first, first + per), 1) for first in firsts])

    def _gradients(self, rows: slice, parts: int) -> Tensor:
        """Gradients of ``parts`` equal parts of some rows, (parts, rows, columns): each is one group of channels."""
        o, shape = self.options, self.weight.shape
        x, d = (t[rows].reshape(-1, parts * t.shape[1], *t.shape[2:]) for t in (self.inputs, self.gradients))
        weight = self.weight.expand(parts, *shape).reshape(parts * shape[0], *shape[1:])
        if o.transposed:  # the roles swap: the input is the output gradient of a convolution that reads d
            x, d = d, _as_output(x, d, shape[2:], o)
        gradient: Tensor = torch.ops.aten.convolution_backward(
            d,
            x,
            weight,
            None,
            list(o.stride),
            list(o.padding),
            list(o.dilation),
            False,
            [0] * len(o.stride),
            parts * o.groups,
            [False, True, False],
        )[1]
        return gradient.reshape(parts, self.rows, self.columns)

    def arrange(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.rows, self.columns)

    def restore(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(*matrix.shape[:-2], *self.weight.shape)


def _as_output(inputs: Tensor, gradients: Tensor, kernel: tuple[int, ...], options: ConvOptions) -> Tensor:
    """Inputs of a transposed convolution, with zeros where a convolution of its output would have positions more."""
    geometry = zip(
        gradients.shape[2:], inputs.shape[2:], kernel, options.padding, options.dilation, options.stride, strict=True
    )
    extra = [(n + 2 * p - d * (k - 1) - 1) // s + 1 - size for n, size, k, p, d, s in geometry]
    return F.pad(inputs, [value for e in reversed(extra) for value in (0, e)]) if any(extra) else inputs


class ShiftedConvGradient:
    """Per-sample weight gradients of an ungrouped convolution, a strided product for each row of the kernel.

    The weight's matrix has a block of ``out_channels`` rows for each offset of the kernel in all axes but the last, and
    ``kernel[-1] * in_channels`` columns. Where that would lay out too large an input, a last axis of one position is
    added: then a product for each offset of the kernel, on a copy of the input.
    """

    def __init__(self, inputs: Tensor, gradients: Tensor, weight: Tensor, options: ConvOptions) -> None:
        self.shape = weight.shape
        kernel: tuple[int, ...] = tuple(weight.shape[2:])
        if inputs.numel() * inputs.element_size() * kernel[-1] > LAID_OUT:
            inputs, gradients, kernel = inputs.unsqueeze(-1), gradients.unsqueeze(-1), (*kernel, 1)
            options = ConvOptions((*options.stride, 1), (*options.padding, 0), (*options.dilation, 1))
        self.inputs, self.gradients, self.options = inputs, gradients, options
        *self.outer, self.width = kernel
        self.samples = len(inputs)
        self.row_group = weight.shape[0]
        self.rows = math.prod(self.outer) * self.row_group
        self.columns = self.width * weight.shape[1]
        self.device_bytes = inputs.element_size()

    @cached_property
    def _operands(self) -> tuple[Tensor, list[Tensor]]:
        """The output gradient, and the input as each row of the kernel sees it; laid out where a product is formed."""
        o, (*spatial, last) = self.options, self.gradients.shape[2:]
        # every phase of the stride gets the extent that the largest offset needs
        geometry = zip(spatial, self.outer, o.dilation, o.stride, strict=False)
        extent = [n + (k - 1) * d // s for n, k, d, s in geometry]
        needed = [e * s for e, s in zip(extent, o.stride, strict=False)]
        needed.append((last - 1) * o.stride[-1] + (self.width - 1) * o.dilation[-1] + 1)
        if len(extent) > 1:
            needed[0] += o.stride[0]  # the last offset's view runs over the end by less than a step of the first axis
        pads = [(p, n - size - p) for p, n, size in zip(o.padding, needed, self.inputs.shape[2:], strict=True)]
        padded = F.pad(self.inputs.movedim(1, -1), [0, 0, *itertools.chain(*reversed(pads))]).contiguous()
        channels = padded.shape[-1]
        # at every position what the last axis of the kernel sees, channels innermost: the copies are of long runs
        seen = padded.as_strided(
            (*padded.shape[:-2], last, self.width, channels),
            (*padded.stride()[:-2], o.stride[-1] * channels, o.dilation[-1] * channels, 1),
        )
        grid = [value for n, e in reversed([*zip(spatial, extent, strict=True)][1:]) for value in (0, e - n)]
        left = F.pad(self.gradients, [0, 0, *grid]).flatten(2) if grid else self.gradients.flatten(2)
        row = [math.prod(extent[axis + 1 :]) * last for axis in range(len(extent))]
        phases: dict[tuple[int, ...], Tensor] = {}
        rights = []
        for position in itertools.product(*(range(k) for k in self.outer)):
            steps = [p * d for p, d in zip(position, o.dilation, strict=False)]
            phase = tuple(a % s for a, s in zip(steps, o.stride, strict=False))
            if phase not in phases:
                strided = (slice(a, None, s) for a, s in zip(phase, o.stride, strict=False))
                phases[phase] = seen[(slice(None), *strided)].reshape(self.samples, -1, self.columns).contiguous()
            shift = sum(a // s * r for a, s, r in zip(steps, o.stride, row, strict=False))
            rights.append(phases[phase][:, shift : shift + left.shape[2]])
        return left, rights

    def block(self, samples: slice, rows: slice) -> Tensor:
        offset, first = divmod(rows.start, self.row_group)
        left, rights = self._operands
        return torch.bmm(left[samples, first : first + rows.stop - rows.start], rights[offset][samples])

    def arrange(self, weight: Tensor) -> Tensor:
        split = weight.reshape(*self.shape[:2], *self.outer, self.width)
        return split.movedim(1, -1).movedim(0, len(self.outer)).reshape(self.rows, self.columns)

    def restore(self, matrix: Tensor) -> Tensor:
        lead = matrix.shape[:-2]
        split = matrix.reshape(*lead, *self.outer, self.row_group, self.width, self.shape[1])
        return split.movedim((-3, -1), (len(lead), len(lead) + 1)).reshape(*lead, *self.shape)


def conv_source(
    inputs: Tensor, gradients: Tensor, weight: Tensor, options: ConvOptions, samples: int
) -> GradientSource:
    """The cheapest exact rule for one convolution call.

    Args:
        inputs: (rows, in channels, ...), rows a multiple of ``samples``, a sample's rows contiguous.
        gradients: of the outputs, (rows, out channels, ...).
        weight: the weight as it is used.
        options: stride, padding, dilation, groups, transposed.
        samples: number of samples.
    """
    pointwise = math.prod(weight.shape[2:]) == 1 and options.groups == 1 and not any(options.padding)
    if pointwise and not options.transposed:
        if any(s > 1 for s in options.stride):
            steps = tuple(
                slice(0, (n - 1) * s + 1, s) for n, s in zip(gradients.shape[2:], options.stride, strict=True)
            )
            inputs = inputs[(slice(None), slice(None), *steps)]
        left, right = gradients.flatten(2).transpose(1, 2), inputs.flatten(2).transpose(1, 2)
        if len(inputs) != samples:
            left, right = (t.reshape(samples, -1, t.shape[2]) for t in (left, right))
        return LinearGradient(left, right, tuple(weight.shape))
    plain = options.groups == 1 and not options.transposed and len(inputs) == samples
    if plain and weight.shape[1] >= WIDE:
        return ShiftedConvGradient(inputs, gradients, weight, options)
    return GroupedConvGradient(inputs, gradients, weight, options, samples)
