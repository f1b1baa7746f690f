"""Backbones of detectors: four maps of strides 4 to 32 from many kinds of network, a feature pyramid, and its loss."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lswag_hooks.batch import Batch
from lswag_hooks.detection.configs import build_backbone as config_backbone
from lswag_hooks.detection.objectives import SEED, PicturesObjective, check_pictures, detector_library, shrunk
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.models import Spec, build, describe, takes_pictures
from lswag_hooks.rng import seeded

STRIDES = (4, 8, 16, 32)
CHANNELS = 256  # of the pyramid
ANCHORS = (32, 64, 128, 256, 512)  # side at strides 4 to 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for RGB from 0 to 1
PROBES = ((256, 320), (320, 384))  # two sizes: what is bound to one of them fails at the other


class Backbone(nn.Module):
    """Any network that returns feature maps, reduced to four of them, of strides 4, 8, 16 and 32.

    Args:
        body: gives a list, tuple or dictionary of maps for pictures (N, 3, H, W).
        name: for errors.
        norms: give each of the four maps a norm of its own (one group over channels and places), which networks whose
            blocks begin with a norm lack.

    Attributes:
        channels: of the four maps.

    Raises:
        InputError: the network gives no maps, not those four strides, or takes pictures of one size only.

    Example:
        >>> import timm
        >>> backbone = Backbone(timm.create_model("test_resnet", features_only=True), "test_resnet")
        >>> backbone.channels, [tuple(features.shape[2:]) for features in backbone(torch.zeros(1, 3, 64, 96))]
        ((32, 48, 192, 96), [(16, 24), (8, 12), (4, 6), (2, 3)])
    """

    def __init__(self, body: nn.Module, name: str, norms: bool = False) -> None:
        super().__init__()
        self.body, self.name = body, name
        self.indices, self.channels = self._looked_at()
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in self.channels) if norms else None
        if self.norms is not None and (first := next(body.parameters(), None)) is not None:
            self.norms.to(first.device)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """The four maps, (N, C, H / stride, W / stride) each."""
        found = self._maps(pictures)
        maps = [found[index] for index in self.indices]
        if self.norms is not None:
            maps = [norm(features) for norm, features in zip(self.norms, maps, strict=True)]
        return tuple(maps)

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        body: Any = self.body
        found = body.features(pictures) if _is_burger(body) else body(pictures)
        maps = list(found.values()) if isinstance(found, Mapping) else found
        if not isinstance(maps, (list, tuple)) or not all(isinstance(m, Tensor) and m.dim() == 4 for m in maps):
            raise InputError(
                f"{self.name} gives {_told(found)}, not feature maps: a backbone returns several, (N, C, H, W)."
            )
        if getattr(getattr(self.body, "output_fmt", None), "value", "NCHW") == "NHWC":  # timm says so of Swin
            return [features.permute(0, 3, 1, 2) for features in maps]
        return list(maps)

    def _looked_at(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Which maps have the strides that are wanted, and their channels, found by running it at two sizes."""
        first = next(self.body.parameters(), None)
        found = []
        with ProbeSession(self.body, "eval"), torch.no_grad():
            for size in PROBES:
                try:
                    maps = self._maps(torch.zeros(1, 3, *size, device=None if first is None else first.device))
                except InputError:
                    raise
                except Exception as error:  # any network may refuse in its own words
                    said = " ".join(str(error).split())[:150]
                    raise InputError(
                        f"{self.name} cannot serve: it takes no pictures of {size[0]} x {size[1]} ({said}). A "
                        "detector's pictures have many sizes."
                    ) from error
                strides = [size[0] / features.shape[2] for features in maps]
                found.append((strides, [features.shape[1] for features in maps]))
        strides, channels = found[0]
        if found[1][0] != strides or not set(STRIDES) <= set(strides):
            raise InputError(
                f"{self.name} cannot serve: its {len(strides)} maps have strides "
                f"{', '.join(f'{stride:g}' for stride in strides)}; a pyramid needs 4, 8, 16 and 32."
            )
        last = {stride: index for index, stride in enumerate(strides)}
        indices = tuple(last[stride] for stride in STRIDES)
        return indices, tuple(channels[index] for index in indices)


class Pyramid(nn.Module):
    """A backbone with a feature pyramid on it (Lin et al. 2017): five maps of 256 channels, of strides 4 to 64.

    Scored by itself it is judged by the loss of a region proposal network on its maps: :class:`PyramidObjective`.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), CHANNELS, extra_blocks=LastLevelMaxPool())

    def forward(self, pictures: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The five maps of pictures (N, 3, H, W), or of a list of pictures of different sizes."""
        images = pictures if isinstance(pictures, Tensor) else stacked(pictures)
        maps = self.backbone(images)
        return list(self.fpn({str(level): features for level, features in enumerate(maps)}).values())


class PyramidObjective(PicturesObjective):
    """The loss of a region proposal network (Ren et al. 2015) on a pyramid's maps.

    Objectness and boxes of 256 anchors a picture, half of them positive where there are so many; the mean over
    pictures. The head is the same, drawn once, for every pyramid, and does not count in a score. A picture's loss
    depends on no other one: neither its anchors, which are drawn with one seed, nor its padding.

    Args:
        canvas: height and width to which pictures are padded; by default those of the largest in the batch.
    """

    joins = ""
    mend = "take smaller pictures (--size)"

    def __init__(self, canvas: tuple[int, int] | None = None) -> None:
        self.canvas = canvas

    def over(self, batch: Batch) -> PyramidObjective:
        """The objective for this batch and its parts."""
        check_pictures(batch)
        return PyramidObjective(canvas_of(batch.inputs))

    def for_layout(self, batch: Batch) -> tuple[Any, Batch]:
        """See :class:`PicturesObjective`."""
        return PyramidObjective(), shrunk(batch)

    def trunk(self, model: nn.Module, batch: Batch) -> tuple[nn.Module, tuple[int, int]]:
        """All of it."""
        return model, self.canvas or canvas_of(batch.inputs)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        check_pictures(batch)
        sizes = [(int(picture.shape[-2]), int(picture.shape[-1])) for picture in batch.inputs]
        images = stacked(batch.inputs, self.canvas)
        maps = model(images)
        proposals = _proposal_network(str(images.device), images.dtype)
        anchors = proposals.anchor_generator(ImageList(images, sizes), maps)
        objectness, deltas = concat_box_prediction_layers(*proposals.head(maps))
        labels, matched = proposals.assign_targets_to_anchors(anchors, list(batch.targets))
        wanted = proposals.box_coder.encode(matched, anchors)
        losses = []
        for picture in zip(objectness.chunk(len(sizes)), deltas.chunk(len(sizes)), labels, wanted, strict=True):
            scores, offsets, label, box = picture
            with seeded(SEED):
                losses += proposals.compute_loss(scores, offsets, [label], [box])
        return torch.stack(losses).sum() / len(sizes)


def canvas_of(pictures: Sequence[Tensor]) -> tuple[int, int]:
    """The least height and width that hold all pictures and are multiples of 32."""
    height, width = (-(-max(int(picture.shape[axis]) for picture in pictures) // 32) * 32 for axis in (-2, -1))
    return height, width


def stacked(pictures: Tensor | Sequence[Tensor], canvas: tuple[int, int] | None = None) -> Tensor:
    """Pictures, RGB from 0 to 1, normalised as for ImageNet, padded to one size and joined.

    Example:
        >>> stacked([torch.zeros(3, 30, 40), torch.zeros(3, 50, 20)]).shape
        torch.Size([2, 3, 64, 64])
    """
    mean, std = (pictures[0].new_tensor(values)[:, None, None] for values in (MEAN, STD))
    height, width = canvas or canvas_of(list(pictures))
    return torch.stack(
        [
            F.pad((picture - mean) / std, (0, width - picture.shape[-1], 0, height - picture.shape[-2]))
            for picture in pictures
        ]
    )


def build_backbone(
    spec: Spec, *, seed: int | None = 0, norms: bool | None = None, device: torch.device | str | None = None
) -> Backbone:
    """Build a backbone with seeded weights; nothing is downloaded.

    Args:
        spec: ``"timm/NAME"`` (with ``features_only``), ``"burgerformer/ARCHITECTURE"`` or the name of a published one,
            such as ``"burgerformer/BurgerFormer-B"``, the path of a config of MMDetection, a detector or
            ``"torchvision/DETECTOR"``, whose backbone is taken, a module that returns feature maps, or what builds one.
        seed: of the weights; None: from the global random state.
        norms: a norm for each map; by default BurgerFormer has them, and no other.
        device: where to build it.

    Raises:
        InputError: there is no such network, or it cannot serve as a backbone; says why.

    Example:
        >>> build_backbone("burgerformer/BurgerFormer-B").channels
        (96, 128, 320, 512)
    """
    seed = drawn(seed)
    name = describe(spec)
    body = _body(spec, seed, norms)
    if device is not None and not isinstance(spec, nn.Module):
        body = body.to(device)
    with seeded(seed):
        return Backbone(body, name, bool(norms) and not _is_burger(body))


def build_pyramid(
    spec: Spec, *, seed: int | None = 0, norms: bool | None = None, device: torch.device | str | None = None
) -> Pyramid:
    """A backbone of :func:`build_backbone` with a feature pyramid, its weights seeded as well."""
    seed = drawn(seed)
    backbone = build_backbone(spec, seed=seed, norms=norms, device=device)
    with seeded(seed):
        pyramid = Pyramid(backbone)
    first = next(backbone.parameters(), None)
    return pyramid if first is None else pyramid.to(first.device)


def drawn(seed: int | None) -> int:
    """A seed, or one drawn from the global random state."""
    return int(torch.randint(2**31, ())) if seed is None else seed


def _body(spec: Spec, seed: int, norms: bool | None) -> nn.Module:
    library, _, name = spec.partition("/") if isinstance(spec, str) else ("", "", "")
    if library == "timm":
        return _timm(name, seed)
    if library == "burgerformer":
        return _burger(name, seed, norms is not False)
    if library == "torchvision" and not takes_pictures(str(spec)):
        raise InputError(f"{spec} gives classes, not feature maps: take the network of that name from timm.")
    if isinstance(spec, str) and spec.endswith(".py"):
        with seeded(seed):
            return config_backbone(spec)
    found: Any = build(spec, seed=seed)
    library_of = detector_library(found)
    if library_of == "torchvision" and not hasattr(found.backbone, "body"):
        raise InputError(f"{describe(spec)}: its backbone, a {type(found.backbone).__name__}, has no four maps.")
    if library_of == "mmdet":
        return cast(nn.Module, found.backbone)
    return cast(nn.Module, found.backbone.body) if library_of or isinstance(found, Pyramid) else found


def _timm(name: str, seed: int) -> nn.Module:
    import timm

    if ":" in name or not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}.{near_matches(name, timm.list_models())}")
    errors = []
    tries: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False})
    for options in tries:  # Swin and its like take any size only if told to
        try:
            with seeded(seed):
                body: nn.Module = timm.create_model(name, pretrained=False, features_only=True, **options)
        except Exception as error:  # a model without features, or without that option
            errors.append(" ".join(str(error).split()))
            continue
        if options or not any(getattr(module, "strict_img_size", False) for module in body.modules()):
            return body
        errors.append("it takes pictures of one size only")
    raise InputError(f"timm/{name} cannot serve as a backbone: {errors[0][:200]}.")


def _burger(architecture: str, seed: int, norms: bool) -> nn.Module:
    from lswag_hooks.spaces.burgerformer import NAMED, BurgerFormer

    name, architecture = architecture, NAMED.get(architecture, architecture)
    if "spatial_mlp" in architecture:
        raise InputError(
            f"burgerformer/{name} cannot serve: its spatial_mlp mixes the places of maps of one size, and a "
            "detector's pictures have many. Search with BurgerFormer(spatial_mlp=False)."
        )
    with seeded(seed):
        return BurgerFormer(spatial_mlp=False).network(architecture, out_norms=norms, num_classes=0)


def _is_burger(body: nn.Module) -> bool:
    from lswag_hooks.spaces.burgerformer_network import BurgerNetwork

    return isinstance(body, BurgerNetwork)


@functools.cache
def _proposal_network(device: str, dtype: torch.dtype) -> Any:
    """The head and its helpers; not a part of any model that is scored."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

    anchors = AnchorGenerator(tuple((side,) for side in ANCHORS), ((0.5, 1.0, 2.0),) * len(ANCHORS))
    count = {"training": 1000, "testing": 1000}
    with seeded(SEED):
        head = RPNHead(CHANNELS, anchors.num_anchors_per_location()[0])
        network = RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, count, count, 0.7)
    return network.to(device, dtype).requires_grad_(False)


def _told(found: Any) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
