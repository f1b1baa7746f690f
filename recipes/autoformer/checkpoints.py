"""Networks out of checkpoints: those that this recipe wrote, and the supernets that AutoFormer's authors released."""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.autoformer import PATCH, AutoFormerSpace
from lswag_hooks.spaces.autoformer_network import AutoFormer
from recipes.autoformer.choices import from_plain, resolve_space
from recipes.autoformer.released import is_released, released_space, renamed
from recipes.autoformer.supernet import Supernet
from recipes.common import KEY, finish

SIZES = ("num_classes", "image_size", "patch_size", "channels")
SHAPE = ("space", "image_size", "patch_size", "channels")  # what networks must share for weights to fit


@dataclass
class Saved:
    """What a checkpoint holds.

    Attributes:
        path: of its file.
        network: ``kind`` (supernet or subnet), ``space``, ``num_classes``, ``image_size``, ``patch_size``,
            ``channels``, and ``architecture`` of a subnet.
        state: its weights.
    """

    path: Path
    network: dict[str, Any]
    state: dict[str, Tensor]

    @property
    def space(self) -> AutoFormerSpace:
        """What the supernet's subnets are, or what the network is one of."""
        return resolve_space(from_plain(self.network["space"]), self.network["patch_size"])

    def build(self) -> Supernet | AutoFormer:
        """The network, in evaluation mode.

        Raises:
            InputError: the weights are not those of the network that the checkpoint says it holds.
        """
        classes, side, patch_size, channels = (self.network[name] for name in SIZES)
        made: Supernet | AutoFormer
        if self.network["kind"] == "subnet":
            made = AutoFormer(
                self.space.parse(self.network["architecture"]), classes, (side, side), patch_size, channels
            )
        else:
            made = Supernet(self.space, classes, side, patch_size, channels)
        load(made, self.state, self.path)
        return made.eval()

    def supernet(self) -> Supernet:
        """The supernet.

        Raises:
            InputError: it holds a single network.
        """
        made = self.build()
        if not isinstance(made, Supernet):
            raise InputError(
                f"{self.path} holds the single network {self.network['architecture']!r}, not a supernet: give a "
                "checkpoint of train_supernet, or of finetune without an architecture."
            )
        return made


def read_checkpoint(path: str | Path) -> Saved:
    """Read a checkpoint; nothing in it is run.

    Raises:
        InputError: there is none, it cannot be read, or it is none of AutoFormer.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there is no checkpoint {path}.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the released ones keep their arguments
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} cannot be read as a checkpoint: {' '.join(str(error).split())[:200]}") from None
    content = content if isinstance(content, dict) else {}
    if KEY in content:
        inner = "network."
        state = {n.removeprefix(inner): value for n, value in content["state_dict"].items() if n.startswith(inner)}
        return Saved(file, content[KEY]["network"], state)
    theirs = content.get("model", content)
    if not is_released(theirs):
        raise InputError(
            f"{path} is no checkpoint of this recipe, nor one of the released AutoFormer supernets: its first entries "
            f"are {', '.join(map(str, [*content][:5])) or 'none'}."
        )
    classes, channels = theirs["head.weight"].shape[0], theirs["patch_embed_super.proj.weight"].shape[1]
    side = round((theirs["pos_embed"].shape[1] - 1) ** 0.5) * PATCH
    network = {
        "kind": "supernet",
        "space": released_space(theirs),
        "num_classes": classes,
        "image_size": side,
        "patch_size": PATCH,
        "channels": channels,
    }
    return Saved(file, network, {f"weights.{name}": value for name, value in renamed(theirs).items()})


def start_from(network: nn.Module, described: dict[str, Any], path: str | Path) -> None:
    """Give a network the weights of a checkpoint, but not those of the head where classes are others.

    Into a single network go those of the same one, or the subnet's own out of a supernet.

    Raises:
        InputError: the checkpoint is of another architecture.
    """
    saved = read_checkpoint(path)
    compared = list(SHAPE)
    state = saved.state
    if described["kind"] == "subnet" and saved.network["kind"] == "supernet":
        saved.space.parse(described["architecture"])
        state = saved.supernet().inherit(described["architecture"]).state_dict()
    elif described["kind"] != saved.network["kind"]:
        raise InputError(
            f"{path} holds a single network, and a supernet cannot start from one: give model.architecture."
        )
    elif described["kind"] == "subnet":
        compared.append("architecture")
    differ = [name for name in compared if described[name] != saved.network[name]]
    if differ:
        told = "; ".join(f"{name} is {saved.network[name]!r} there, {described[name]!r} here" for name in differ)
        raise InputError(f"{path} is of another architecture: {told}.")
    if saved.network["num_classes"] != described["num_classes"]:
        own = network.state_dict()
        state = {name: own[name] if "head." in name else value for name, value in state.items()}
    load(network, state, path)


def load(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load weights, all of them.

    Raises:
        InputError: names or shapes are others; names the first.
    """
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is not known" for name in state if name not in own]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(f"{path} is of another architecture: {wrong[0]}{more}.")
    network.load_state_dict(state)


def compare(args: Sequence[str] | None = None) -> int:
    """Say whether two checkpoints have the same weights, bit for bit: ``python -m recipes.autoformer.checkpoints A B``.

    Returns:
        The exit status: 0; 1 where they differ.
    """
    one, other = (read_checkpoint(path).state for path in (sys.argv[1:] if args is None else args))
    differ = [
        name for name in {**one, **other} if name not in one or name not in other or not one[name].equal(other[name])
    ]
    print(f"{len(differ)} of {len(one)} weights differ: {differ[0]}" if differ else f"{len(one)} weights are the same")
    return 1 if differ else 0


if __name__ == "__main__":
    finish(compare)
