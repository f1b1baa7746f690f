"""An accelerator where there is none: tensors that say they lie on one, and refuse what it would refuse.

A tensor there holds one on the CPU, which does the work. As on a real device no operation takes a tensor of the CPU
beside it, values cannot be read without a copy, and MPS knows neither double precision nor some operations.

Not pretended: random states, autocast, streams and memory of its own; and its kernels, so that results are those of
the CPU, unless ``rounding`` is asked for: then operands of products and sums are moved by a few units in the last
place, as if another kernel had come to them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

aten = torch.ops.aten
DOUBLE = (torch.float64, torch.complex128)
# which take indices and sources of copies from the CPU
CROSSING = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# which take not even a single number from there
STRICT = {aten.cat, aten.stack, aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.convolution}
# eigenvalues and the like are not there; unique and sort err on large whole numbers (pytorch issues 195595, 155560)
NOT_ON_MPS = {aten._linalg_eigh, aten._linalg_svd, aten._linalg_slogdet, aten._unique2, aten.sort}
DRAWN = {aten.uniform_, aten.normal_}
# where kernels differ in how they round
ROUNDED = {
    aten.mm,
    aten.bmm,
    aten.addmm,
    aten.baddbmm,
    aten.convolution,
    aten.convolution_backward,
    aten.sum,
    aten.mean,
}


class OnDevice(Tensor):
    """A tensor on the accelerator. Python is told so; torch's own code takes it for one on the meta device."""

    held: Tensor
    home: Pretended
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, home: Pretended) -> OnDevice:
        home.check_type(held.dtype)
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="meta",
        )
        made.held, made.home = held.detach(), home
        return made

    device = property(lambda self: self.home.device)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)
    is_cuda = property(lambda self: self.device.type == "cuda")
    is_mps = property(lambda self: self.device.type == "mps")

    def __getitem__(self, index: Any) -> Any:
        # torch would make a tensor of a list where it takes this one to lie, and so without values
        each = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(one) if isinstance(one, list) else one for one in each))

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.held.numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu()")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        made = OnDevice(self.held.clone(), self.home).requires_grad_(self.requires_grad)
        made._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = made
        return made

    def __repr__(self) -> str:
        return f"{self.held!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        home = next(leaf.home for leaf in tree_iter((args, kwargs)) if isinstance(leaf, OnDevice))
        return home.run(function, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """While open, there is a device of this name: "cuda" or "mps"."""

    def __init__(self, name: str, rounding: bool = False) -> None:
        super().__init__()
        # in the place of torch's own fake tensors: with one there torch starts no CUDA
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        self.device, self.rounding = torch.device(name, 0), rounding

    def __enter__(self) -> Pretended:
        self.kept = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) comes by here, too
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self.kept)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(function, args, kwargs or {})

    def check_type(self, dtype: Any) -> None:
        if self.device.type == "mps" and dtype in DOUBLE:
            raise TypeError(f"Cannot convert a MPS Tensor to {dtype}: the MPS framework has no double precision")

    def run(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation, of whatever tensors."""
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        there, named = any(isinstance(one, OnDevice) for one in tensors), kwargs.get("device")
        if there:
            self._check(function, args, tensors)
        result_there = there if named is None else named.type in ("meta", self.device.type)
        if named is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if result_there:
            self.check_type(kwargs.get("dtype"))
        held_args, held_kwargs = tree_map_only(OnDevice, lambda one: one.held, (args, kwargs))
        if there and self.rounding and function.overloadpacket in ROUNDED:
            held_args = tree_map_only(Tensor, _moved, held_args)
        found = function(*held_args, **held_kwargs)
        if there and function.overloadpacket in DRAWN:
            found.copy_(found.flatten().flip(0).view(found.shape))  # the numbers of a device are its own
        written = [
            (i, a.name) for i, a in enumerate(function._schema.arguments) if a.alias_info and a.alias_info.is_write
        ]
        if written and len(function._schema.returns) == 1:  # in place, or into out=
            position, name = written[0]
            return kwargs[name] if name in kwargs else args[position]
        return tree_map_only(Tensor, lambda one: OnDevice(one, self), found) if result_there else found

    def _check(self, function: Any, args: Any, tensors: list[Tensor]) -> None:
        packet = function.overloadpacket
        if self.device.type == "mps" and packet in NOT_ON_MPS:
            raise NotImplementedError(f"{packet} is not implemented for the MPS device, or is wrong there")
        strangers = [one for one in tensors if not isinstance(one, OnDevice)]
        assert not any(one.is_meta for one in strangers), "torch made a tensor without values: mend the pretence"
        if packet in CROSSING:
            return
        inplace = function._schema.name.endswith("_") and not isinstance(args[0], OnDevice)
        if inplace or any(one.dim() or packet in STRICT for one in strangers):
            found = [f"{tuple(one.shape)} on {one.device}" for one in tensors]
            raise RuntimeError(f"Expected all tensors to be on the same device: {packet} of {', '.join(found)}")


def _moved(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or torch.equal(tensor, tensor.round()):
        return tensor  # sums of whole numbers are exact everywhere
    return tensor + tensor * (_noise(tensor.numel()) * torch.finfo(tensor.dtype).eps).to(tensor.dtype).view(
        tensor.shape
    )


@functools.cache
def _noise(numbers: int) -> Tensor:
    generator = torch.Generator().manual_seed(numbers)
    return 4 * torch.rand(numbers, generator=generator, dtype=torch.float64) - 2
