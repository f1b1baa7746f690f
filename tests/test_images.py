from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lswag_hooks import images
from lswag_hooks.errors import InputError


def write_npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, pictures) -> Path:
    """Three classes of ten, in the order a, b, c, with one of them a level deeper and one in another format."""
    for i, picture in enumerate(pictures):
        place = tmp_path / "data" / "abc"[i // 10] / ("deep" if i < 5 else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{i}.{'bmp' if i == 7 else 'png'}")
    (tmp_path / "data" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "data" / ".hidden").mkdir()
    return tmp_path / "data"


def numbers_of(images_: torch.Tensor, pictures: np.ndarray) -> list[int]:
    """Which picture each image is: standardising keeps correlation with the original at one."""
    flat = torch.from_numpy(pictures).movedim(-1, 1).flatten(1).float()
    flat = torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)
    seen = images_.flatten(1) - images_.flatten(1).mean(1, keepdim=True)
    return (seen @ flat.T).argmax(1).tolist()


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (3, 8, 8)), ((8, 9), (3, 8, 9)), ((1, 8, 9), (1, 8, 9)), ([3, 8, 9], (3, 8, 9))]
)
def test_sizes(size, shape):
    assert images.image_shape(size) == shape


@pytest.mark.parametrize("size", [0, -3, (8,), (1, 2, 3, 4), (3, 0, 8), (3, 8.5, 8), "32"])
def test_sizes_that_make_no_sense(size):
    with pytest.raises(InputError, match=r"give a side, \(height, width\)"):
        images.image_shape(size)


class TestBalancedIndices:
    def test_is_a_choice_without_repeats_that_the_seed_decides(self):
        labels = np.arange(100) % 7
        first, again, other = (images.balanced_indices(labels, 20, seed) for seed in (1, 1, 2))
        assert len(set(first.tolist())) == 20
        assert first.tolist() == again.tolist() != other.tolist()

    def test_every_prefix_is_balanced(self):
        labels = np.repeat([3, 5, 9], 20)
        chosen = labels[images.balanced_indices(labels, 60)]
        for n in range(1, 61):
            counts = [(chosen[:n] == c).sum() for c in (3, 5, 9)]
            assert max(counts) - min(counts) <= 1

    def test_small_classes_give_all_they_have(self):
        labels = np.array([0] * 50 + [1] * 2)
        assert np.bincount(labels[images.balanced_indices(labels, 12)]).tolist() == [10, 2]

    def test_no_more_than_there_are(self):
        assert sorted(images.balanced_indices(np.zeros(4), 9)) == [0, 1, 2, 3]


class TestFit:
    def test_grey_becomes_colour_in_every_channel(self):
        grey = torch.rand(2, 1, 4, 4)
        assert torch.equal(images.fit(grey, (3, 4, 4)), grey.repeat(1, 3, 1, 1))

    def test_colour_becomes_grey_by_the_mean(self):
        colour = torch.rand(2, 3, 4, 4)
        torch.testing.assert_close(images.fit(colour, (1, 4, 4)), colour.mean(1, keepdim=True))

    def test_shrinking_averages_rather_than_skips(self):
        stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 1, 16, 16)
        shrunk = images.fit(stripes, (1, 4, 4))
        assert (shrunk - 0.5).abs().max() < 0.1

    def test_channels_that_do_not_fit(self):
        with pytest.raises(InputError, match=r"4 channels .* asks for 3: give size=\(4, 8, 8\)"):
            images.fit(torch.rand(2, 4, 4, 4), (3, 8, 8))


class TestDigits:
    def test_are_standardised_grey_and_balanced(self):
        pixels, labels = images.digits((3, 32, 32), samples=64, seed=0)
        assert pixels.shape == (64, 3, 32, 32)
        assert pixels.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert torch.equal(pixels[:, 0], pixels[:, 2])
        assert abs(pixels.mean().item()) < 1e-5
        assert pixels.std(correction=0).item() == pytest.approx(1, abs=1e-5)
        counts = torch.bincount(labels, minlength=10)
        assert set(counts.tolist()) == {6, 7}

    def test_are_the_real_ones_with_their_labels(self):
        from sklearn.datasets import load_digits

        data = load_digits()
        pixels, labels = images.digits((1, 8, 8), samples=30, seed=4)
        real = (data.images - data.images.mean()) / data.images.std()
        for picture, label in zip(pixels[:, 0].numpy(), labels, strict=True):
            likeness = [np.corrcoef(picture.ravel(), r.ravel())[0, 1] for r in real[data.target == int(label)]]
            assert max(likeness) > 0.99999

    def test_the_seed_decides(self):
        first, again, other = (images.digits(8, 20, seed)[0] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_more_than_there_are(self):
        with pytest.raises(InputError, match="there are 1797 digits"):
            images.digits(8, 1798, 0)


def test_noise_is_standard_normal_and_leaves_the_global_state():
    state = torch.get_rng_state()
    pixels, labels = images.noise((3, 32, 32), samples=64, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(pixels.mean().item()) < 0.02
    assert abs(pixels.std().item() - 1) < 0.02
    assert torch.bincount(labels).tolist() == [7, 7, 7, 7, 6, 6, 6, 6, 6, 6]
    assert torch.equal(pixels, images.noise((3, 32, 32), samples=64, seed=3)[0])


def test_unknown_built_in_data():
    with pytest.raises(InputError, match="Did you mean 'digits'"):
        images.builtin("digit", 8, 4, 0)


class TestNpz:
    def test_bytes_are_standardised_by_channel_and_keep_their_labels(self, tmp_path, pictures):
        path = write_npz(tmp_path / "x.npz", images=pictures, labels=np.arange(30) // 10)
        pixels, labels = images.read_npz(path, 12, None, seed=0)
        assert pixels.shape == (12, 3, 6, 8)
        torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(pixels.std((0, 2, 3), correction=0), torch.ones(3))
        assert [n // 10 for n in numbers_of(pixels, pictures)] == labels.tolist()
        assert torch.bincount(labels).tolist() == [4, 4, 4]

    def test_floats_stay_as_they_are(self, tmp_path):
        pixels = np.random.default_rng(0).normal(3, 2, (4, 3, 5, 5))
        path = write_npz(tmp_path / "x.npz", images=pixels, labels=np.arange(4, dtype=np.uint8))
        read, labels = images.read_npz(path, 64, None, 0)
        assert labels.dtype == torch.int64
        np.testing.assert_array_equal(read.numpy(), pixels.astype(np.float32)[labels.numpy()])

    def test_grey_bytes_resized_to_colour(self, tmp_path, pictures):
        path = write_npz(tmp_path / "x.npz", images=pictures[..., 0], labels=np.arange(30))
        pixels, _ = images.read_npz(path, 64, (3, 16, 16), 0)
        assert pixels.shape == (30, 3, 16, 16)
        assert pixels.std(correction=0).item() == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(4, int)}, r"no array 'images', only \['labels"),
            ({"images": np.zeros((4, 8, 8, 3), np.uint8)}, r"no array 'labels', only \['images'\]"),
            ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(5, int)}, "4 images but 5 labels"),
            ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros((4, 10))}, "must be whole class numbers"),
            ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.array(list("abcd"))}, "whole class numbers"),
            ({"images": np.zeros((0, 8, 8, 3), np.uint8), "labels": np.zeros(0, int)}, "whole class numbers"),
            ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(4, int)}, "flat colour"),
            ({"images": np.zeros((4, 8, 8, 3), np.int64), "labels": np.zeros(4, int)}, "'images' is int64"),
            ({"images": np.zeros((4, 8, 8, 3)), "labels": np.zeros(4, int)}, r"save images.transpose\(0, 3, 1, 2\)"),
            ({"images": np.zeros((4, 64), np.uint8), "labels": np.zeros(4, int)}, r"uint8 of shape \(4, 64\)"),
            ({"images": np.array([None] * 4), "labels": np.zeros(4, int)}, "cannot be read as an .npz of plain"),
        ],
    )
    def test_what_is_in_it_makes_no_sense(self, tmp_path, arrays, message):
        with pytest.raises(InputError, match=message):
            images.read_npz(write_npz(tmp_path / "x.npz", **arrays), 4, None, 0)

    def test_unreadable_files(self, tmp_path, pictures):
        (tmp_path / "text.npz").write_text("hello")
        (tmp_path / "empty.npz").write_bytes(b"")
        whole = write_npz(tmp_path / "whole.npz", images=pictures, labels=np.arange(30)).read_bytes()
        (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "damaged.npz").write_bytes(whole[:500] + b"\0" * 500 + whole[1000:])
        (tmp_path / "folder.npz").mkdir()
        for name in ("text", "empty", "cut", "damaged", "folder"):
            with pytest.raises(InputError, match=rf"{name}.npz cannot be read .* write it with numpy.savez"):
                images.read_npz(tmp_path / f"{name}.npz", 4, None, 0)
        with pytest.raises(InputError, match=r"none.npz does not exist"):
            images.read_npz(tmp_path / "none.npz", 4, None, 0)
        np.save(tmp_path / "bare.npy", pictures)
        with pytest.raises(InputError, match="one bare array"):
            images.read_npz(tmp_path / "bare.npy", 4, None, 0)


class TestImageFolder:
    def test_reads_every_class_with_its_label(self, folder, pictures):
        pixels, labels = images.read_image_folder(folder, 64, (3, 6, 8), 0)
        numbers = numbers_of(pixels, pictures)
        assert sorted(numbers) == list(range(30))
        assert [n // 10 for n in numbers] == labels.tolist()
        torch.testing.assert_close(pixels.std((0, 2, 3), correction=0), torch.ones(3))

    def test_few_samples_are_spread_over_the_classes(self, folder):
        _, labels = images.read_image_folder(folder, 6, 8, 0)
        assert torch.bincount(labels).tolist() == [2, 2, 2]

    def test_grey(self, folder):
        assert images.read_image_folder(folder, 4, (1, 5, 7), 0)[0].shape == (4, 1, 5, 7)

    def test_what_is_wrong_with_it(self, folder, tmp_path):
        with pytest.raises(InputError, match="is not a folder"):
            images.read_image_folder(tmp_path / "none", 4, 8, 0)
        with pytest.raises(InputError, match="one folder a class"):
            images.read_image_folder(folder / "b", 4, 8, 0)
        with pytest.raises(InputError, match=r"grey .* or colour .*, not 4"):
            images.read_image_folder(folder, 4, (4, 8, 8), 0)
        (folder / "b" / "1.png").write_bytes(b"no image")
        with pytest.raises(InputError, match=r"1.png cannot be read as an image"):
            images.read_image_folder(folder, 64, 8, 0)
        (folder / "d").mkdir()
        with pytest.raises(InputError, match=r"d holds no image \(.bmp, .*\): fill it or remove it"):
            images.read_image_folder(folder, 4, 8, 0)
