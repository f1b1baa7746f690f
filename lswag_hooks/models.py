"""What is scored: a module, a factory, ``timm/NAME``, ``torchvision/NAME``, ``SPACE/ARCHITECTURE`` or a dotted path."""

import copy
import functools
import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.images import Size, image_shape
from lswag_hooks.rng import seeded
from lswag_hooks.spaces import get_space, list_spaces

Spec: TypeAlias = str | nn.Module | Callable[..., nn.Module]

SOURCES = ("timm", "burgerformer", "torchvision")  # of backbones of detectors, beside configs
DETECTION = (3, 800, 1333)  # the usual size of a detector's pictures


def build(
    spec: Spec,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    image_size: Size | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Build a model with seeded weights; nothing is downloaded and no pretrained weight is loaded.

    Args:
        spec: A module, which is returned as it is, whatever the other arguments say; a factory without required
            arguments other than ``num_classes``; "timm/NAME"; "torchvision/NAME"; "SPACE/ARCHITECTURE" with a name of
            :func:`lswag_hooks.list_spaces`; the path of a factory or module, "package.module:name" or
            "package.module.name"; or of a config file of MMDetection, "FILE.py". "timm/NAME:backbone",
            "burgerformer/ARCHITECTURE:backbone", "FILE.py:backbone" and "torchvision/DETECTOR:backbone" are backbones
            with a feature pyramid on them.
        num_classes: Passed to timm, torchvision and spaces, and to a factory that has a parameter of that name. By
            default theirs.
        seed: The same seed gives the same weights. The global random states are given back as they were.
        image_size: The images to come: a side, (height, width) or (channels, height, width). Read by models of timm,
            torchvision and spaces, of which some are built for one size and one number of channels. By default theirs.
        device: Where to move what a name or a factory gives; by default it stays where that put it.

    Returns:
        The model, in training mode as its builder left it.

    Raises:
        InputError: An unknown name or path, a factory that returns no module, or a size that the model cannot take.

    Example:
        >>> first, again = (build("timm/test_resnet", num_classes=10, seed=1) for _ in range(2))
        >>> all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
        True
    """
    if isinstance(spec, nn.Module):
        return spec
    library, _, name = spec.partition("/") if isinstance(spec, str) else ("", "", "")
    if isinstance(spec, str) and spec.endswith(":backbone") and (library in SOURCES or spec.endswith(".py:backbone")):
        from lswag_hooks.detection.pyramid import build_pyramid

        with seeded(seed, start_cuda=True):  # the same weights as in a ranking and a search
            return build_pyramid(spec.removesuffix(":backbone"), seed=None, device=device)
    if isinstance(spec, str) and spec.endswith(".py"):
        from lswag_hooks.detection.configs import build_detector

        with seeded(seed, start_cuda=True):
            model = build_detector(spec, num_classes)
        return model if device is None else model.to(device)
    check_classes(num_classes)
    if library == "timm" and name:
        make = functools.partial(_timm, name, num_classes, image_size)
    elif library == "torchvision" and name:
        make = functools.partial(_torchvision, name, num_classes, image_size)
    elif library in list_spaces() and name:
        make = functools.partial(get_space(library).build, name, num_classes, image_size=image_size)
    else:
        with seeded(seed, start_cuda=True):  # an import may draw too, but only the first one
            found = _imported(spec) if isinstance(spec, str) else spec
        make = functools.partial(_called, found, num_classes, describe(spec))
    # the two libraries build on the CPU; someone's own factory may build on a GPU
    with seeded(seed, start_cuda=library not in ("timm", "torchvision", *list_spaces())):
        model = make()
    return model if device is None else model.to(device)


def check_classes(num_classes: int | None) -> None:
    """Refuse a number of outputs that makes no sense."""
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes={num_classes}: give one or more.")


def describe(spec: Spec) -> str:
    """Name a model for a table.

    Example:
        >>> describe("timm/resnet18"), describe(nn.Linear(1, 1)), describe(nn.Identity)
        ('timm/resnet18', 'Linear', 'Identity')
    """
    if isinstance(spec, str):
        return spec
    if isinstance(spec, nn.Module):
        return str(_timm_config(spec).get("architecture") or type(spec).__name__)
    if isinstance(spec, functools.partial):
        return describe(spec.func)
    return str(getattr(spec, "__qualname__", type(spec).__name__))


def family(spec: Spec) -> str | None:
    """What a model is one of: the file of timm or torchvision that builds it, a space, a class; None for a factory.

    Example:
        >>> family("timm/resnet18"), family("timm/vit_tiny_patch16_224"), family("torchvision/resnet18")
        ('resnet', 'vision_transformer', 'resnet')
        >>> family("nasbench201/|...|"), family(nn.Linear(1, 1)), family(nn.Identity)
        ('nasbench201', 'Linear', None)
    """
    if isinstance(spec, nn.Module):
        return type(spec).__name__
    library, slash, name = spec.partition("/") if isinstance(spec, str) else ("", "", "")
    name = name.partition(":")[0]
    if library == "timm":
        import timm

        return timm.model_entrypoint(name).__module__.rpartition(".")[2] if timm.is_model(name) else None
    if library == "torchvision":
        from torchvision import models

        return (
            str(models.get_model_builder(name).__module__).rpartition(".")[2] if name in models.list_models() else None
        )
    return library if slash and library in list_spaces() else None


def takes_pictures(spec: str) -> bool:
    """Whether a spec is of a detector, or of a backbone of one, whose pictures have boxes.

    Example:
        >>> takes_pictures("torchvision/retinanet_resnet50_fpn"), takes_pictures("timm/resnet18:backbone")
        (True, True)
        >>> takes_pictures("torchvision/resnet18")
        False
    """
    library, _, name = spec.partition("/")
    if spec.endswith((".py", ":backbone")):
        return True
    if library != "torchvision":
        return False
    from torchvision import models

    return name in models.list_models(models.detection)


def expected_input_size(model: Spec) -> tuple[int, int, int] | None:
    """Tell the (channels, height, width) that a timm model, or a "timm/NAME", was made for; None where nothing says so.

    Example:
        >>> expected_input_size("timm/vit_tiny_patch16_224"), expected_input_size(nn.Linear(1, 1))
        ((3, 224, 224), None)
    """
    if isinstance(model, str) and model.removesuffix(":backbone").endswith(".py"):
        from lswag_hooks.detection.configs import load_config, picture_scale

        longest, shortest = picture_scale(load_config(model.removesuffix(":backbone")))
        return 3, shortest, longest
    if isinstance(model, str) and takes_pictures(model):
        return DETECTION
    if isinstance(model, str) and model.startswith("timm/"):
        import timm

        try:
            config = timm.get_pretrained_cfg(model.removeprefix("timm/"))
        except RuntimeError:  # the model has no such tag
            config = None
        size = config.input_size if config else None
    else:
        size = _timm_config(model).get("input_size")
    return (int(size[0]), int(size[1]), int(size[2])) if size else None


def _timm(name: str, num_classes: int | None, image_size: Size | None) -> nn.Module:
    import timm  # slow to import, and not needed to score a module

    if ":" in name or not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}.{near_matches(name, timm.list_models())} See timm.list_models().")
    own = expected_input_size(f"timm/{name}")
    shape = None if image_size is None else image_shape(image_size)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    fixed = bool(own and getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False))
    resized = shape if fixed and shape != own else None
    if shape is not None:
        options["pretrained_cfg_overlay"] = {"input_size": shape}  # the channels, and what the model says of itself
    if resized is not None:
        options["img_size"] = resized[1:]

    def make() -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model if resized is None else _tried(model, resized)

    return _explained(make, f"timm/{name}", shape, own)


def _torchvision(name: str, num_classes: int | None, image_size: Size | None) -> nn.Module:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise InputError(f"torchvision has no model {name!r}.{near_matches(name, known)} See its models.list_models().")
    shape = None if image_size is None else image_shape(image_size)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None  # its default is a download
    if shape is not None and shape[0] != 3:
        raise InputError(f"torchvision/{name} takes 3 channels, not {shape[0]}: give size=(3, {shape[1]}, {shape[2]}).")
    own = (3, 224, 224) if name.startswith(("vit_", "maxvit")) else None
    resized = shape if own is not None and shape != own else None
    if resized is not None and name.startswith("vit_"):
        if resized[1] != resized[2]:
            raise InputError(f"torchvision/{name} takes square images only, not image_size={image_size!r}.")
        options["image_size"] = resized[1]
    elif resized is not None:
        options["input_size"] = resized[1:]

    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
            model: nn.Module = models.get_model(name, weights=None, **options)
        return model if resized is None else _tried(model, resized)

    return _explained(make, f"torchvision/{name}", shape, own)


def _tried(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Run one blank image through a copy: some models build at any size and fail only when run, or keep a cache."""
    with torch.no_grad():
        copy.deepcopy(model).eval()(torch.zeros(1, *shape))
    return model


def _explained(
    make: Callable[[], nn.Module], name: str, shape: tuple[int, int, int] | None, own: tuple[int, int, int] | None
) -> nn.Module:
    try:
        return make()
    except Exception as error:  # a library's own words, of any type, are of use only with what was asked for
        said = " ".join(str(error).split()) or type(error).__name__
        if shape is None or shape == own:
            raise InputError(f"{name} cannot be built: {said}") from error
        mend = f"give it images of its own size, {own}" if own else "try another image_size"
        raise InputError(f"{name} cannot be built for images of size {shape} ({said}): {mend}.") from error


def _imported(path: str) -> Any:
    """Import what "package.module:name" or "package.module.name" points to."""
    module_name, colon, attributes = path.partition(":")
    if not colon:
        module_name, _, attributes = path.rpartition(".")
    if not module_name or not attributes or "/" in path:
        raise InputError(f"no model is called {path!r}.{_suggestions(path)}")
    module = None
    while module is None:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module is there, and something that it imports is not
            if colon or "." not in module_name:
                raise InputError(
                    f"{path!r}: there is no module {error.name!r}. Install it, or start Python where it lies "
                    f"(PYTHONPATH=.).{_suggestions(path)}"
                ) from None
            # "module.Class.method": what looks like a module may be a class in one
            module_name, _, last = module_name.rpartition(".")
            attributes = f"{last}.{attributes}"
    found: Any = module
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise InputError(f"{path!r}: {module_name} has no {attribute!r}.{near_matches(attribute, dir(found))}")
        found = getattr(found, attribute)
    if not callable(found):
        raise InputError(f"{path!r} is a {type(found).__name__}: point to a module or to a function that returns one.")
    return found


def _called(factory: Any, num_classes: int | None, name: str) -> nn.Module:
    """Call a factory, with ``num_classes`` if it has such a parameter and nobody bound it."""
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise InputError(
            f"a {type(factory).__name__} is no model: pass a module, a function that returns one, 'timm/NAME', "
            "'torchvision/NAME', 'SPACE/ARCHITECTURE' or 'package.module:function'."
        )
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some built-ins have no signature
        parameters = {}  # type: ignore[assignment]
    bound = factory.keywords if isinstance(factory, functools.partial) else {}
    passes = num_classes is not None and "num_classes" in parameters and "num_classes" not in bound
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and not (passes and p.name == "num_classes")
    ]
    if missing:
        raise InputError(f"{name} needs {', '.join(missing)}: wrap it in a function without arguments, or a partial.")
    model = factory(num_classes=num_classes) if passes else factory()
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned a {type(model).__name__}: a factory must return an nn.Module.")
    return model


def _suggestions(name: str) -> str:
    """Suggest models of the two libraries for a name without its library."""
    import timm
    from torchvision import models

    names = [f"timm/{n}" for n in timm.list_models()] + [f"torchvision/{n}" for n in models.list_models()]
    exact = [f"'{n}'" for n in names if n.partition("/")[2] == name]
    said = f" Did you mean {' or '.join(exact)}?" if exact else near_matches(name, names)
    return f"{said} Give 'timm/NAME', 'torchvision/NAME', 'package.module:function' or a module."


def _timm_config(model: Any) -> dict[str, Any]:
    config = getattr(model, "pretrained_cfg", None)
    return config if isinstance(config, dict) else {}
