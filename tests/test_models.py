import functools
import random
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from lswag_hooks.errors import InputError
from lswag_hooks.models import build, describe, expected_input_size


class Small(nn.Module):
    def __init__(self, num_classes: int = 7, width: int = 4):
        super().__init__()
        self.head = nn.Linear(width, num_classes)
        # what code in the wild does: each of the three generators
        self.scales = [random.random(), float(np.random.rand())]


def needs_two(width, depth):
    raise AssertionError("must not be called")


def weights(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.fixture
def user_package(tmp_path, monkeypatch):
    """A package of the user's own: a factory, a class, an instance, and a module whose own import fails."""
    package = tmp_path / "user_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        "import torch.nn as nn\n"
        "def make(num_classes=3): return nn.Linear(2, num_classes)\n"
        "class Zoo:\n    @staticmethod\n    def tiny(): return nn.Linear(2, 9)\n"
        "ready = nn.Linear(1, 1)\n"
        "number = 5\n"
        "def text(): return 'no model'\n"
    )
    (package / "broken.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "user_package"
    for name in [name for name in sys.modules if name.startswith("user_package")]:
        del sys.modules[name]


EVERY_KIND = ["timm/test_vit", "torchvision/squeezenet1_1", "tests_factory", Small, lambda: Small(5)]
each_kind = pytest.mark.parametrize("spec", EVERY_KIND, ids=["timm", "torchvision", "dotted", "class", "lambda"])


@pytest.fixture
def resolved(request, user_package):
    return lambda spec: f"{user_package}.nets:make" if spec == "tests_factory" else spec


@each_kind
def test_the_seed_decides_the_weights(spec, resolved):
    first, again, other = (build(resolved(spec), num_classes=10, seed=seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@each_kind
def test_global_random_states_survive(spec, resolved):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    build(resolved(spec), num_classes=10, seed=4)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_the_global_state_does_not_matter():
    first = build(Small, seed=3)
    random.random(), np.random.rand(), torch.rand(3)
    again = build(Small, seed=3)
    assert same(first, again)
    assert first.scales == again.scales


@each_kind
def test_number_of_classes(spec, resolved):
    model = build(resolved(spec), num_classes=10)
    shape = (1, 3, 160, 160) if isinstance(spec, str) and "/" in spec else None
    expected = 5 if getattr(spec, "__name__", "") == "<lambda>" else 10
    if shape:
        assert model.eval()(torch.rand(shape)).shape == (1, expected)
    else:
        assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [expected]


@pytest.mark.parametrize(
    ("factory", "classes"), [(functools.partial(Small, num_classes=3), 3), (functools.partial(Small, width=2), 10)]
)
def test_a_number_of_classes_that_was_bound_stays(factory, classes):
    assert build(factory, num_classes=10).head.out_features == classes


def test_a_module_is_returned_as_it_is():
    model = Small().eval()
    before = [w.clone() for w in weights(model)]
    assert build(model, num_classes=3, seed=9, device="meta") is model
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert not model.training


def test_a_device_that_was_asked_for():
    assert build(Small, device="meta").head.weight.is_meta
    assert build("timm/test_vit", device="meta").training


def test_weights_are_those_of_the_library_itself():
    torch.manual_seed(5)
    reference = torchvision.models.resnet18(num_classes=4)
    assert same(build("torchvision/resnet18", num_classes=4, seed=5), reference)
    torch.manual_seed(5)
    assert same(build("timm/resnet18", seed=5), timm.create_model("resnet18"))


class TestDottedPath:
    @pytest.mark.parametrize(
        ("path", "outputs"),
        [("nets:make", 10), ("nets.make", 10), ("nets:Zoo.tiny", 9), ("nets.Zoo.tiny", 9), ("nets:ready", 1)],
    )
    def test_leads_to_a_factory_or_a_module(self, user_package, path, outputs):
        assert build(f"{user_package}.{path}", num_classes=10).out_features == outputs

    def test_an_instance_is_not_built_anew(self, user_package):
        assert build(f"{user_package}.nets:ready") is build(f"{user_package}.nets.ready")

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("user_package.nets:mak", r"user_package.nets has no 'mak'. Did you mean 'make'\?"),
            ("user_package.nets.Zoo.tinny", r"has no 'tinny'. Did you mean 'tiny'\?"),
            ("user_package.nett:make", r"no module 'user_package.nett'. Install it, or start Python where it lies"),
            ("no_such_package.nets.make", "no module 'no_such_package'"),
            ("user_package.nets:number", "is a int: point to a module or to a function"),
            ("user_package.nets:text", "returned a str: a factory must return an nn.Module"),
        ],
    )
    def test_leads_nowhere(self, user_package, path, message):
        with pytest.raises(InputError, match=message):
            build(path)

    @pytest.mark.parametrize("path", ["user_package.broken:make", "user_package.broken.make"])
    def test_an_import_that_fails_inside_shows_itself(self, user_package, path):
        with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
            build(path)


class TestBadSpec:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("timm/resnet81", r"timm has no model 'resnet81'. Did you mean 'resnet\d+"),
            ("timm/vit_tiny", r"timm has no model 'vit_tiny'. Did you mean '.*See timm.list_models\(\)"),
            ("timm/resnet18.no_such_tag", "timm/resnet18.no_such_tag cannot be built: Invalid pretrained tag"),
            ("timm/hf-hub:someone/model", "timm has no model"),
            ("torchvision/resnet19", r"torchvision has no model 'resnet19'. Did you mean 'resnet\d+"),
            ("resnet18", "no model is called 'resnet18'. Did you mean 'timm/resnet18' or 'torchvision/resnet18'"),
            ("tim/resnet18", r"no model is called .* Did you mean 'timm/resnet18'"),
            ("timm/", "no model is called"),
            ("", "no model is called"),
            (needs_two, "needs_two needs width, depth: wrap it"),
            (lambda: "text", "returned a str: a factory must return an nn.Module"),
            (5, "a int is no model: pass a module"),
            (None, "a NoneType is no model"),
        ],
    )
    def test_says_what_to_do(self, spec, message):
        with pytest.raises(InputError, match=message):
            build(spec, num_classes=10)

    def test_no_classes_and_bad_seeds(self):
        with pytest.raises(InputError, match="num_classes=0: give one or more"):
            build("timm/test_vit", num_classes=0)
        with pytest.raises(InputError, match="seed=-1: take a whole number"):
            build("timm/test_vit", seed=-1)

    def test_an_error_in_a_factory_shows_itself_and_states_survive(self):
        def factory():
            torch.rand(1)
            raise ZeroDivisionError("mine")

        state = torch.get_rng_state()
        with pytest.raises(ZeroDivisionError, match="mine"):
            build(factory)
        assert torch.equal(torch.get_rng_state(), state)


class TestImageSize:
    @pytest.mark.parametrize(
        ("spec", "size", "shape"),
        [
            ("timm/vit_tiny_patch16_224", 64, (3, 64, 64)),
            ("timm/vit_tiny_patch16_224", (1, 32, 64), (1, 32, 64)),
            ("timm/levit_128s", 64, (3, 64, 64)),
            ("timm/eva02_tiny_patch14_224", 56, (3, 56, 56)),  # its size is written into its entry point too
            ("timm/test_resnet", (1, 40, 56), (1, 40, 56)),
            ("torchvision/vit_b_32", 64, (3, 64, 64)),
            ("torchvision/squeezenet1_1", (64, 80), (3, 64, 80)),
        ],
    )
    def test_the_model_takes_such_images(self, spec, size, shape):
        model = build(spec, num_classes=3, image_size=size)
        if spec.startswith("timm"):
            assert expected_input_size(model) == shape
        assert model.eval()(torch.rand(2, *shape)).shape == (2, 3)

    def test_trying_a_size_leaves_nothing_behind(self):
        model = build("timm/levit_128s", num_classes=3, image_size=64)
        # LeViT keeps the biases of its attention when it runs without gradients
        assert not any(m.attention_bias_cache for m in model.modules() if hasattr(m, "attention_bias_cache"))
        assert all(m.training for m in model.modules())

    @pytest.mark.parametrize(
        ("spec", "size", "message"),
        [
            (
                "timm/crossvit_tiny_240",
                64,
                r"cannot be built for .* \(3, 64, 64\) .*: give it .* own size, \(3, 240, 240\)",
            ),
            ("torchvision/vit_b_32", (64, 32), "takes square images only"),
            (
                "torchvision/vit_b_32",
                70,
                r"cannot be built for .* \(3, 70, 70\) .*: give it .* own size, \(3, 224, 224\)",
            ),
            ("torchvision/maxvit_t", 64, r"not divisible by partition size 7.*: give it images of its own size"),
            ("torchvision/resnet18", (1, 32, 32), r"takes 3 channels, not 1: give size=\(3, 32, 32\)"),
            ("timm/test_vit", (3, 3), "cannot be built"),
            ("timm/test_vit", (3, 0, 3), "give a side"),
        ],
    )
    def test_a_size_that_it_cannot_take(self, spec, size, message):
        with pytest.raises(InputError, match=message):
            build(spec, num_classes=3, image_size=size)


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    for name in ("fasterrcnn_mobilenet_v3_large_fpn", "lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"):
        build(f"torchvision/{name}", num_classes=3)
    build("timm/resnet18.a1_in1k")


@pytest.mark.filterwarnings("error::FutureWarning")
def test_googlenet_builds_without_a_warning():
    build("torchvision/googlenet", num_classes=3)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("timm/resnet18", "timm/resnet18"),
        (Small(), "Small"),
        (Small, "Small"),
        (functools.partial(Small, width=3), "Small"),
        (needs_two, "needs_two"),
        (timm.create_model("test_vit"), "test_vit"),
    ],
)
def test_describe(spec, name):
    assert describe(spec) == name


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("timm/test_vit", (3, 160, 160)),
        ("timm/vit_base_patch16_384", (3, 384, 384)),
        ("timm/no_such_model", None),
        ("torchvision/resnet18", None),
        (timm.create_model("test_vit"), (3, 160, 160)),
        (nn.Linear(1, 1), None),
        (Small, None),
    ],
)
def test_expected_input_size(model, size):
    assert expected_input_size(model) == size


@pytest.mark.gpu
def test_a_factory_that_builds_on_cuda_follows_the_seed():
    first, again = (build(lambda: nn.Linear(3, 3, device="cuda"), seed=2) for _ in range(2))
    assert same(first, again)
    assert build("timm/test_vit", device="cuda", seed=2).head.weight.is_cuda
