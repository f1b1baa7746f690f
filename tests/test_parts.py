from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch

from lswag_hooks import parts
from lswag_hooks.errors import InputError
from lswag_hooks.parts import PerSample

Pair = namedtuple("Pair", "left right")


def boxes(*counts: int) -> tuple[dict, ...]:
    return tuple({"boxes": torch.rand(n, 4), "labels": torch.arange(n)} for n in counts)


def test_normalised_makes_tuples_and_dicts_and_keeps_named_tuples():
    x, y = torch.zeros(2), torch.ones(2)
    made = parts.normalised(UserDict(a=[x, {"b": Pair(y, "name")}]), "inputs")
    assert type(made) is dict
    assert type(made["a"]) is tuple
    assert made["a"][0] is x
    assert made["a"][1]["b"] == Pair(y, "name")
    assert isinstance(made["a"][1]["b"], Pair)


def test_normalised_refuses_what_it_does_not_know():
    with pytest.raises(InputError, match=r"inputs\['a'\]\[1\] is a ndarray: pass tensors"):
        parts.normalised({"a": [torch.zeros(1), np.zeros(1)]}, "inputs")


class TestMarked:
    def test_a_detection_batch_of_unequal_images(self):
        inputs, targets, samples = parts.marked((torch.rand(3, 8, 8), torch.rand(3, 9, 7)), boxes(3, 1))
        assert (type(inputs), type(targets), samples) == (PerSample, PerSample, 2)

    def test_stacked_images_with_one_dict_each(self):
        inputs, targets, samples = parts.marked(torch.rand(2, 3, 8, 8), boxes(2, 2))
        assert (type(inputs), type(targets), samples) == (torch.Tensor, PerSample, 2)

    def test_two_inputs_side_by_side(self):
        inputs, targets, samples = parts.marked((torch.rand(5, 2), torch.rand(1)), (torch.rand(5), torch.rand(5)))
        assert (type(inputs), type(targets), samples) == (tuple, tuple, 5)

    def test_two_inputs_of_two_samples_are_still_side_by_side(self):
        inputs, targets, samples = parts.marked((torch.rand(2, 4), torch.rand(1)), (torch.rand(2, 3), torch.rand(2)))
        assert (type(inputs), type(targets), samples) == (tuple, tuple, 2)

    def test_tensors_of_unequal_length_as_targets(self):
        _, targets, _ = parts.marked(torch.rand(2, 4), (torch.rand(5), torch.rand(3)))
        assert type(targets) is PerSample

    def test_file_names_within_inputs(self):
        inputs, _, samples = parts.marked({"x": torch.rand(3, 4), "file": ("a", "b", "c"), "root": "/"}, None)
        assert samples == 3
        assert type(inputs["file"]) is PerSample
        assert inputs["root"] == "/"

    @pytest.mark.parametrize("inputs", [(), {}, "x", {"a": 1}])
    def test_no_tensor(self, inputs):
        with pytest.raises(InputError, match="hold no tensor"):
            parts.marked(inputs, None)

    def test_a_single_number(self):
        with pytest.raises(InputError, match=r"inputs\['a'\] is a single number"):
            parts.marked({"a": torch.tensor(1.0)}, None)


def test_take_keeps_what_is_shared_and_cuts_the_rest():
    x, shared, files = torch.arange(3), torch.ones(1), PerSample("abc")
    taken = parts.take({"x": x, "shared": shared, "pair": Pair(x, 1), "files": files}, slice(1, 3), 3)
    assert taken["x"].tolist() == taken["pair"].left.tolist() == [1, 2]
    assert taken["shared"] is shared
    assert taken["files"] == ("b", "c")
    assert isinstance(taken["files"], PerSample)


class TestJoined:
    def test_undoes_taking(self):
        part = {
            "x": torch.rand(5, 2),
            "nested": (torch.arange(5), Pair(torch.rand(5), "same")),
            "boxes": PerSample(boxes(1, 2, 3, 4, 5)),
            "positions": torch.arange(7),
        }
        pieces = [parts.take(part, index, 5) for index in (slice(0, 2), slice(2, 4), slice(4, 5))]
        whole = parts.joined(pieces, [2, 2, 1], "inputs")
        assert torch.equal(whole["x"], part["x"])
        assert torch.equal(whole["nested"][0], part["nested"][0])
        assert torch.equal(whole["nested"][1].left, part["nested"][1].left)
        assert whole["boxes"] == part["boxes"]
        assert torch.equal(whole["positions"], part["positions"])

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            (torch.rand(2, 3), torch.rand(2, 4), r"inputs has other shapes .*\[\(3,\), \(4,\)\]"),
            (torch.rand(3), torch.rand(3), "dimension 0 does not count samples"),
            ({"a": torch.rand(2)}, {"b": torch.rand(2)}, "built in another way"),
            ((torch.rand(2),), (torch.rand(2), torch.rand(2)), "built in another way"),
            (torch.rand(2), (torch.rand(2),), "built in another way"),
            ("a", "b", "differs from one mini-batch"),
        ],
    )
    def test_mini_batches_that_do_not_fit(self, first, second, message):
        with pytest.raises(InputError, match=message):
            parts.joined([first, second], [2, 2], "inputs")


def test_as_tensors():
    made = parts.as_tensors({"a": [1.5, 2.0], "b": [np.zeros(2), torch.ones(2)], "c": None, "d": "text"})
    assert made["a"].tolist() == [1.5, 2.0]
    assert [type(value) for value in made["b"]] == [torch.Tensor, torch.Tensor]
    assert (made["c"], made["d"]) == (None, "text")
    with pytest.raises(InputError, match="pass numbers"):
        parts.as_tensors(["a", "b"])
