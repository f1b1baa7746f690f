import pytest

from lswag_hooks.errors import InputError, LSWAGError, UnsupportedError, near_matches


@pytest.mark.parametrize(("error", "builtin"), [(InputError, ValueError), (UnsupportedError, NotImplementedError)])
def test_errors_are_caught_as_ours_and_as_python_s(error, builtin):
    for caught in (LSWAGError, builtin):
        with pytest.raises(caught, match="say what to do"):
            raise error("say what to do")


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("resnet_18", " Did you mean 'resnet18', 'resnet50' or 'resnet34'?"),
        ("swintiny", " Did you mean 'Swin_Tiny_patch4'?"),
        ("RESNET18", " Did you mean 'resnet18'?"),
        ("vgg1", " Did you mean 'vgg11'?"),
        ("swi", " Did you mean 'Swin_Tiny_patch4'?"),
        ("xyzzy", ""),
        ("", ""),
    ],
)
def test_near_matches(name, suggested):
    assert near_matches(name, ["resnet18", "vgg11", "resnet50", "resnet34", "Swin_Tiny_patch4"]) == suggested


def test_near_matches_of_two():
    assert near_matches("swap", ["reg_swap", "swap2"]) == " Did you mean 'swap2' or 'reg_swap'?"
