import copy
import pickle
import random
import subprocess
import sys

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError


def detection(*counts: int) -> Batch:
    pictures = tuple(torch.rand(3, 8 + n, 8) for n in counts)
    return Batch(pictures, tuple({"boxes": torch.rand(n, 4), "labels": torch.ones(n).long()} for n in counts))


BATCHES = {
    "tensor": lambda: Batch(torch.rand(5, 3, 4, 4), torch.arange(5)),
    "no targets": lambda: Batch(torch.rand(5, 3)),
    "tuple": lambda: Batch((torch.rand(5, 3), torch.rand(1)), (torch.arange(5), torch.rand(5))),
    "dict": lambda: Batch({"ids": torch.arange(10).view(5, 2), "mask": torch.ones(5, 2)}, {"labels": torch.arange(5)}),
    "detection": lambda: detection(1, 2, 3, 4, 5),
}
each_kind = pytest.mark.parametrize("batch", [pytest.param(make(), id=kind) for kind, make in BATCHES.items()])


class Numbered(Dataset):
    """Sample i is filled with i; a worker draws as an augmentation would."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return torch.full((2,), float(i)) + 0 * torch.rand(1), i


class Endless(IterableDataset):
    def __iter__(self):
        i = 0
        while True:
            yield torch.full((2,), float(i)), i % 3
            i += 1


class TestValidation:
    @pytest.mark.parametrize(
        ("inputs", "targets", "message"),
        [
            (torch.rand(1, 3), torch.tensor([0]), "the batch has 1 sample: .* pass two or more"),
            (torch.rand(0, 3), None, "the batch has 0 samples"),
            (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), None, r"uint8: scale it first, .* inputs.float\(\) / 255"),
            (
                torch.tensor([[1.0], [float("nan")]]),
                None,
                r"inputs \(torch.float32\) holds 1 NaN or infinite values of 2",
            ),
            ({"a": torch.tensor([[1.0], [float("inf")]])}, None, r"inputs\['a'\].* holds 1 NaN or infinite"),
            (torch.rand(2, 3), torch.tensor([0.0, float("nan")]), r"targets .* holds 1 NaN"),
            (torch.rand(4, 3), torch.arange(3), r"targets has shape \(3,\): its dimension 0 must count the 4 samples"),
            (torch.rand(4, 3), torch.tensor(3), r"targets has shape \(\)"),
            (torch.rand(4, 3), {"a": {"b": torch.arange(3)}}, r"targets\['a'\]\['b'\] has shape \(3,\)"),
            (torch.rand(4, 3), (torch.arange(4), torch.arange(3)), r"targets\[1\] has shape \(3,\)"),
            (np.zeros((4, 3)), None, "inputs is a ndarray: pass tensors"),
            ("digits", None, "the inputs hold no tensor"),
            (torch.tensor(1.0), None, "inputs is a single number"),
            (torch.rand(2, 3), torch.rand(2, device="meta"), "several devices .*cpu, meta"),
        ],
    )
    def test_bad_input_says_what_to_do(self, inputs, targets, message):
        with pytest.raises(InputError, match=message):
            Batch(inputs, targets)

    def test_token_ids_and_byte_masks_are_fine(self):
        ids = torch.arange(8).view(2, 4)
        assert len(Batch({"input_ids": ids, "attention_mask": torch.ones(2, 4, dtype=torch.uint8)})) == 2

    def test_it_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            BATCHES["tensor"]().inputs = torch.zeros(2)


class TestParts:
    @each_kind
    def test_length_and_device(self, batch):
        assert len(batch) == 5
        assert batch.device == torch.device("cpu")

    @each_kind
    def test_pieces_put_together_are_the_whole(self, batch):
        pieces = batch.split(2)
        assert [len(piece) for piece in pieces] == [2, 2, 1]
        loader = [piece.as_loaded() for piece in pieces]
        assert Batch.from_dataloader(loader, samples=5).fingerprint == batch.fingerprint

    def test_a_slice_takes_the_same_samples_of_everything(self):
        batch = BATCHES["tuple"]()
        part = batch[1:4:2]
        assert torch.equal(part.inputs[0], batch.inputs[0][[1, 3]])
        assert part.inputs[1] is batch.inputs[1]
        assert part.targets[0].tolist() == [1, 3]
        assert part.name == batch.name

    def test_one_sample_of_a_slice_of_a_slice(self):
        batch = BATCHES["detection"]()[1:4][1:2]
        assert len(batch) == len(batch.inputs) == len(batch.targets) == 1
        assert len(batch.targets[0]["boxes"]) == 3

    def test_slices_that_make_no_sense(self):
        batch = BATCHES["tensor"]()
        with pytest.raises(TypeError, match="write batch"):
            batch[0]
        with pytest.raises(InputError, match="selects none of the 5"):
            batch[5:]
        with pytest.raises(InputError, match="steps of one or more"):
            batch[::-1]
        with pytest.raises(InputError, match="one sample or more"):
            batch.split(0)

    def test_to_changes_the_type_of_floating_inputs_only(self):
        batch = Batch({"x": torch.rand(2, 3), "ids": torch.arange(2)}, torch.rand(2)).to("cpu", torch.float64)
        assert (batch.inputs["x"].dtype, batch.inputs["ids"].dtype) == (torch.float64, torch.int64)
        assert batch.targets.dtype == torch.float32

    def test_to_moves_everything(self):
        batch = detection(2, 3).to("meta")
        assert {t.device.type for t in (*batch.inputs, batch.targets[1]["boxes"])} == {"meta"}

    def test_overflow_in_the_new_type(self):
        with pytest.raises(InputError, match=r"inputs \(torch.float16\) holds 2 NaN or infinite"):
            Batch(torch.full((2, 1), 1e6)).to("cpu", torch.float16)

    @pytest.mark.gpu
    def test_to_cuda_and_the_same_fingerprint(self):
        batch = Batch.builtin("digits", size=8, samples=20)
        there = batch.to("cuda")
        assert there.device.type == there.targets.device.type == "cuda"
        assert there.fingerprint == batch.fingerprint

    @pytest.mark.parametrize(
        ("targets", "classes"),
        [
            (torch.tensor([0, 6, 2, 2]), 7),
            (torch.tensor([[1, 255], [0, 0], [0, 0], [3, 3]], dtype=torch.uint8), 256),
            (torch.full((4,), -100), None),
            (torch.rand(4), None),
            (torch.ones(4, dtype=torch.bool), None),
            ({"labels": torch.arange(4)}, None),
            (None, None),
        ],
    )
    def test_num_classes(self, targets, classes):
        assert Batch(torch.rand(4, 2), targets).num_classes == classes

    def test_repr_is_short(self):
        text = repr(detection(1, 2, 3))
        assert text.startswith("Batch('tensors', 3 samples, inputs[0]=float32 (3, 9, 8),")
        assert "2 more in targets" in text
        assert len(text) < 400


class TestFingerprint:
    @each_kind
    def test_is_that_of_a_copy_under_another_name(self, batch):
        other = pickle.loads(pickle.dumps(batch))
        assert len(batch.fingerprint) == 16
        assert int(batch.fingerprint, 16) >= 0
        assert other.fingerprint == Batch(other.inputs, other.targets, name="other").fingerprint == batch.fingerprint

    def test_tells_content_type_shape_and_place_apart(self):
        x, y = torch.arange(12.0).view(4, 3), torch.arange(4)
        other = x.clone()
        other[3, 2] += 1e-6
        batches = [
            Batch(x, y),
            Batch(x),
            Batch(other, y),
            Batch(x.double(), y),
            Batch(x.bfloat16(), y),
            Batch(x.view(4, 3, 1), y),
            Batch(x, y.flip(0)),
            Batch({"a": x}, y),
            Batch({"b": x}, y),
            Batch((x, y)),
            Batch({"a": x, "file": "1"}, y),
        ]
        assert len({batch.fingerprint for batch in batches}) == len(batches)

    def test_does_not_depend_on_strides_or_the_order_of_keys(self):
        x, y = torch.rand(3, 4), torch.rand(3, 2)
        assert Batch(x.T.contiguous().T).fingerprint == Batch(x).fingerprint
        assert Batch({"a": x, "b": y}).fingerprint == Batch({"b": y, "a": x}).fingerprint

    def test_is_the_same_in_another_process(self):
        code = "from lswag_hooks.batch import Batch; print(Batch.builtin('digits', size=8, samples=20).fingerprint)"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        assert told == Batch.builtin("digits", size=8, samples=20).fingerprint


def test_from_tensors_takes_arrays_and_lists_and_widens_class_numbers():
    batch = Batch.from_tensors(np.ones((3, 2), np.float32), np.array([0, 1, 2], np.int32), name="mine")
    assert (batch.inputs.dtype, batch.targets.dtype, batch.name) == (torch.float32, torch.int64, "mine")
    assert Batch.from_tensors([[1, 2], [3, 4]], [0.5, 1.5]).targets.dtype == torch.float32


class TestDataLoader:
    @pytest.mark.parametrize(("samples", "taken"), [(3, 3), (4, 4), (9, 9), (20, 20), (64, 20)])
    def test_takes_the_first_samples(self, samples, taken):
        batch = Batch.from_dataloader(DataLoader(Numbered(), batch_size=4), samples)
        assert batch.targets.tolist() == list(range(taken))
        assert batch.inputs[:, 0].tolist() == list(range(taken))
        assert batch.name == "Numbered"

    def test_endless_iterable_dataset(self):
        batch = Batch.from_dataloader(DataLoader(Endless(), batch_size=3), 7)
        assert batch.inputs[:, 1].tolist() == list(range(7))

    @pytest.mark.parametrize(
        "mini_batch",
        [
            (torch.rand(4, 2), torch.arange(4)),
            (torch.rand(4, 2), torch.arange(4), torch.rand(4, 3)),
            (torch.rand(4, 2),),
            torch.rand(4, 2),
            {"input_ids": torch.arange(4), "labels": torch.arange(4)},
            {"pixels": torch.rand(4, 2)},
            ({"a": torch.rand(4), "b": (torch.rand(4, 1), "same")}, {"y": torch.arange(4)}),
        ],
    )
    def test_a_mini_batch_comes_back_as_it_was(self, mini_batch):
        batch = Batch.from_dataloader([copy.deepcopy(mini_batch)] * 2, samples=4)
        back = batch[:].as_loaded()
        assert repr(back) == repr(mini_batch)

    def test_the_target_of_a_dict_is_no_input(self):
        batch = Batch.from_dataloader([{"x": torch.rand(4, 2), "label": torch.arange(4)}], samples=4)
        assert list(batch.inputs) == ["x"]
        assert batch.num_classes == 4

    def test_detection_collate(self):
        data = [(torch.rand(3, 8 + i, 8), {"boxes": torch.rand(i, 4)}) for i in range(5)]
        loader = DataLoader(data, batch_size=2, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))
        batch = Batch.from_dataloader(loader, samples=3)
        assert [image.shape[1] for image in batch.inputs] == [8, 9, 10]
        assert [len(target["boxes"]) for target in batch.targets] == [0, 1, 2]

    @pytest.mark.parametrize("workers", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
    @pytest.mark.parametrize("own", [False, True])
    def test_training_afterwards_draws_as_without(self, workers, own):
        def epochs(score: bool):
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
            generator = torch.Generator().manual_seed(2) if own else None
            loader = DataLoader(Numbered(), batch_size=6, shuffle=True, generator=generator, **workers)
            seen = [Batch.from_dataloader(loader, samples=8).targets.tolist()] if score else []
            order = [y.tolist() for _ in range(2) for _, y in loader]
            return seen, order, (random.random(), np.random.rand(), torch.rand(1).item())

        _, without, draws = epochs(score=False)
        seen, order, same_draws = epochs(score=True)
        assert (order, same_draws) == (without, draws)
        assert seen[0] == (without[0] + without[1])[:8]  # and the batch is of what training sees first

    @pytest.mark.parametrize(
        ("loader", "message"),
        [
            (DataLoader(TensorDataset(torch.rand(0, 2))), "yields no mini-batch"),
            (DataLoader(TensorDataset(torch.rand(1, 2))), "the batch has 1 sample"),
            ([["a", "b"]], "hold no tensor"),
            ([None], "yields a NoneType: mini-batches must be"),
            ([[torch.rand(4, 2)], [torch.rand(4, 3)]], "inputs has other shapes"),
            (torch.rand(4, 2), "the loader is a Tensor: pass one DataLoader"),
            ({"a": []}, "the loader is a dict"),
            (3, "the loader is a int"),
        ],
    )
    def test_bad_loaders(self, loader, message):
        with pytest.raises(InputError, match=message):
            Batch.from_dataloader(loader, samples=8)

    def test_one_sample_is_too_few(self):
        with pytest.raises(InputError, match="samples=1: ask for two or more"):
            Batch.from_dataloader(DataLoader(Numbered()), samples=1)


def datamodule(base: type, **loaders):
    """A datamodule that counts its calls and draws at random in setup."""

    class Module(base):
        def __init__(self):
            super().__init__()
            self.calls = []

        def prepare_data(self):
            self.calls.append("prepare_data")

        def setup(self, stage):
            self.calls.append(stage)
            self.data = TensorDataset(torch.rand(8, 2), torch.arange(8))

        def train_dataloader(self):
            return loaders.get("train", DataLoader(self.data, batch_size=4))

        def val_dataloader(self):
            return DataLoader(TensorDataset(torch.zeros(8, 2), torch.zeros(8)), batch_size=4)

    return Module()


class TestDataModule:
    @pytest.mark.parametrize("library", [lightning.pytorch, pytorch_lightning])
    def test_is_prepared_once_and_random_states_survive(self, library):
        module, state = datamodule(library.LightningDataModule), torch.get_rng_state()
        batch = Batch.from_datamodule(module, samples=6)
        assert module.calls == ["prepare_data", "fit"]
        assert torch.equal(torch.get_rng_state(), state)
        assert (batch.targets.tolist(), batch.name) == ([0, 1, 2, 3, 4, 5], "Module")

    def test_another_stage(self):
        module = datamodule(lightning.pytorch.LightningDataModule)
        assert Batch.from_datamodule(module, 4, stage="validate").inputs.abs().sum() == 0
        assert module.calls == ["prepare_data", "validate"]

    @pytest.mark.parametrize("loader", [[1], {"a": 1}, None, lightning.pytorch.utilities.CombinedLoader([[1]])])
    def test_several_loaders_or_none(self, loader):
        module = datamodule(lightning.pytorch.LightningDataModule, train=loader)
        with pytest.raises(InputError, match=r"train_dataloader\(\) gives a .*, not one loader"):
            Batch.from_datamodule(module)

    def test_no_datamodule(self):
        with pytest.raises(
            InputError, match="has no prepare_data, setup, train_dataloader: pass a LightningDataModule"
        ):
            Batch.from_datamodule(torch.nn.Linear(1, 1))
        with pytest.raises(InputError, match="Did you mean 'validate'"):
            Batch.from_datamodule(datamodule(lightning.pytorch.LightningDataModule), stage="valid")


class TestLoad:
    def test_built_in_names(self):
        batch = Batch.load("digits", size=(3, 16, 16), samples=20, seed=1)
        assert batch.fingerprint == Batch.builtin("digits", (3, 16, 16), 20, seed=1).fingerprint
        assert batch.num_classes == 10
        assert Batch.load("noise", samples=2).inputs.shape == (2, 3, 224, 224)

    def test_npz(self, tmp_path):
        rows = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / "mine.npz", images=rows, labels=np.arange(6))
        batch = Batch.load(str(tmp_path / "mine.npz"))
        assert (len(batch), batch.inputs.shape[1:], batch.name) == (6, (3, 8, 8), "mine")
        assert Batch.load(str(tmp_path / "mine.npz"), size=16, samples=4).inputs.shape == (4, 3, 16, 16)

    def test_folder(self, tmp_path):
        for i in range(4):
            (tmp_path / "pets" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / f"class{i % 2}" / f"{i}.png")
        batch = Batch.load(str(tmp_path / "pets"), size=12)
        assert (len(batch), batch.inputs.shape[1:], batch.name) == (4, (3, 12, 12), "pets")
        assert sorted(batch.targets.tolist()) == [0, 0, 1, 1]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("digit", r"there are no data 'digit'. Did you mean 'digits'\? Give digits, noise or shapes, the path"),
            ("nowhere.npz", "nowhere.npz does not exist"),
            ("no/such/folder", "folder with one sub-folder a class"),
            ("", "data are ''"),
            (None, "data are None"),
        ],
    )
    def test_unknown(self, spec, message):
        with pytest.raises(InputError, match=message):
            Batch.load(spec)

    def test_no_samples(self):
        with pytest.raises(InputError, match="samples=0: ask for two or more"):
            Batch.load("noise", samples=0)
        with pytest.raises(InputError, match="samples=many"):
            Batch.load("noise", samples="many")

    def test_size_that_is_no_size(self):
        with pytest.raises(InputError, match=r"size=2.5: give a side"):
            Batch.load("noise", size=2.5)
