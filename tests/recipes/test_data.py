import itertools
import pickle
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

import recipes.data as D
from lswag_hooks.errors import InputError
from lswag_hooks.spaces.transnasbench_tasks import IMAGE_SHAPES, LOSSES, TASKS
from recipes.data.sampler import EpochSampler
from recipes.data.spherical import on_sphere, random_rotation, sphere_grid
from recipes.data.transforms import Cutout

FROM_FILES = (
    D.CIFAR10,
    D.CIFAR100,
    D.SVHN,
    D.Pets,
    D.ImageNet,
    D.SphericalCIFAR100,
    D.ImageNet16120,
    D.NPZ,
    D.Taskonomy,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("something was to be downloaded")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def picture(path, *, seed=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def cifar_batches(folder, name, key, monkeypatch):
    """Files of the form of CIFAR's, four images in each, whose checksums torchvision does not get to see."""
    reader = getattr(datasets, name)
    root = folder / reader.base_folder
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    written = []
    for (file, _), classes in zip(reader.train_list + reader.test_list, itertools.repeat(reader is datasets.CIFAR10)):
        labels = rng.integers(0, 10 if classes else 100, 4).tolist()
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (root / file).write_bytes(pickle.dumps({"data": data, key: labels}))
        written.append((data, labels))
    (root / reader.meta["filename"]).write_bytes(pickle.dumps({reader.meta["key"]: list(map(str, range(100)))}))
    monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return written


# ------------------------------------------------------------------ what is missing


@pytest.mark.parametrize("kind", FROM_FILES)
def test_what_is_missing_is_told_with_where_to_get_it(kind, tmp_path):
    for path in (None, str(tmp_path / "nothing"), str(tmp_path)):
        with pytest.raises(InputError) as told:
            kind(path=path).setup()
        assert kind.obtain in str(told.value) and (path is None or path in str(told.value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [*FROM_FILES, D.Digits])
def test_fake_data_needs_no_file_and_has_the_datas_form(kind):
    data = kind(fake=True, batch_size=2, fake_samples=5)
    data.setup()
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    for loader, batches in zip(loaders, (2, 3, 3), strict=True):
        assert len(loader) == batches
        images, labels = next(iter(loader))
        assert images.shape == (2, 3, data.image_size, data.image_size)
        assert labels.shape[0] == 2 and (labels.dim() == 2 or int(labels.max()) < data.num_classes)
    other = kind(fake=True, batch_size=2, fake_samples=5)
    other.setup()
    assert torch.equal(next(iter(other.test_dataloader()))[0], next(iter(data.test_dataloader()))[0])
    assert not torch.equal(next(iter(data.test_dataloader()))[0], next(iter(data.train_dataloader()))[0])


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"workers": -1}, {"held_out": -1}, {"repeats": 0}, {"fake_samples": 1}]
)
def test_arguments_that_make_no_sense_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        D.CIFAR10(**options)


# ------------------------------------------------------------------ readers


KINDS = [(D.CIFAR10, "CIFAR10", "labels"), (D.CIFAR100, "CIFAR100", "fine_labels")]


@pytest.mark.parametrize(("kind", "name", "key"), KINDS)
def test_cifar_is_read_as_it_was_written(kind, name, key, tmp_path, monkeypatch):
    written = cifar_batches(tmp_path, name, key, monkeypatch)
    data = kind(str(tmp_path), batch_size=4, workers=0)
    data.setup()
    images, labels = next(iter(data.test_dataloader()))
    pixels, expected = written[-1]
    assert labels.tolist() == expected
    mean, std = (np.array(v).reshape(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    assert np.allclose(images.numpy(), (pixels.reshape(4, 3, 32, 32) / 255 - mean) / std, atol=1e-5)
    assert len(data.parts["train"]) == 4 * (len(written) - 1)


def test_spherical_cifar_is_cifar_on_the_sphere(tmp_path, monkeypatch):
    written = cifar_batches(tmp_path, "CIFAR100", "fine_labels", monkeypatch)
    data = D.SphericalCIFAR100(str(tmp_path), workers=0, seed=3)
    image, label = data.read("test")[2]
    pixels, labels = written[-1]
    expected = on_sphere(torch.from_numpy(pixels[2].reshape(3, 32, 32)).float(), random_rotation(3, 1, 2))
    assert label == labels[2] and image.size == (60, 60)
    assert np.abs(np.asarray(image).transpose(2, 0, 1) - expected.numpy()).max() <= 0.5
    assert not np.array_equal(np.asarray(image), np.asarray(data.read("test")[3][0]))


def test_imagenet_folders_and_their_number_of_classes(tmp_path):
    for split, label in itertools.product(("train", "val"), range(3)):
        picture(tmp_path / split / f"n{label}" / "a.png", seed=label, size=10)
    data = D.ImageNet(str(tmp_path), classes=3, batch_size=2, workers=0, transforms=D.DARTSImageNet(8, 9))
    data.setup()
    assert next(iter(data.train_dataloader()))[0].shape == (2, 3, 8, 8)
    assert [int(label) for _, label in data.parts["test"]] == [0, 1, 2]
    with pytest.raises(InputError, match=r"3 classes, not 1000.*data\.classes=3"):
        D.ImageNet(str(tmp_path)).setup()


def test_pets_are_read_by_torchvision(tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    for name, number in (("Abyssinian_1", 1), ("Bengal_2", 2), ("Birman_3", 3), ("Boxer_4", 37)):
        picture(root / "images" / f"{name}.jpg", seed=number)
    (root / "annotations").mkdir()
    (root / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nBengal_2 2 1 2\n")
    (root / "annotations" / "test.txt").write_text("Birman_3 3 1 3\nBoxer_4 37 2 1\n")
    data = D.Pets(str(tmp_path), workers=0, batch_size=2)
    data.setup()
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (2, 3, 224, 224) and labels.tolist() == [2, 36]


def test_imagenet16_keeps_the_first_120_classes_and_runs_no_code(tmp_path):
    rng = np.random.default_rng(0)
    for name in [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]:
        pixels = rng.integers(0, 256, (4, 768), dtype=np.uint8)
        (tmp_path / name).write_bytes(pickle.dumps({"data": pixels, "labels": [1, 120, 121, 1000]}))
    data = D.ImageNet16120(str(tmp_path), workers=0)
    data.setup()
    assert len(data.parts["train"]) == 20
    read = data.read("test")
    assert read.targets.tolist() == [0, 119]
    assert np.array_equal(np.asarray(read[1][0]), pixels[1].reshape(3, 16, 16).transpose(1, 2, 0))

    class Evil:
        def __reduce__(self):
            return (Image.new, ("RGB", (1, 1)))

    (tmp_path / "val_data").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="which is no array"):
        D.ImageNet16120(str(tmp_path)).setup()


def test_npz_is_parted_evenly_and_the_same_way_again(tmp_path):
    labels = np.repeat(np.arange(4), 10)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    data = D.NPZ(str(tmp_path / "a.npz"), test_share=0.2, held_out=8, workers=0)
    assert (data.num_classes, data.image_size) == (4, 6)
    data.setup()
    held = {name: [int(part.data.images[i][0, 0, 0]) for i in part.indices] for name, part in data.parts.items()}
    assert sorted(itertools.chain(*held.values())) == list(range(40))
    assert {name: np.bincount(labels[values]).tolist() for name, values in held.items()} == {
        "train": [6] * 4,
        "val": [2] * 4,
        "test": [2] * 4,
    }
    for content in (
        {"images": images},
        {"images": images / 255, "labels": labels},
        {"images": images, "labels": labels[1:]},
    ):
        np.savez(tmp_path / "b.npz", **content)
        with pytest.raises(InputError, match=r"b\.npz"):
            D.NPZ(str(tmp_path / "b.npz"))
    (tmp_path / "c.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        D.NPZ(str(tmp_path / "c.npz"))


def test_digits_come_with_scikit_learn():
    data = D.Digits(size=8, workers=0, test_share=0.25)
    data.setup()
    _, labels = load_digits(return_X_y=True)
    parts = [data.parts[name] for name in ("train", "test")]
    assert sorted(int(t) for part in parts for t in part.data.targets) == sorted(labels.tolist())
    assert len(parts[1]) == round(0.25 * len(labels))


# ------------------------------------------------------------------ order and transforms


def test_the_order_follows_from_seed_and_epoch():
    def orders(seed, *epochs):
        sampler = EpochSampler(range(20), seed=seed)
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found.append((list(sampler), sampler.generator.initial_seed()))
        return found

    first, second = orders(0, 0, 1)
    assert sorted(first[0]) == sorted(second[0]) == list(range(20))
    assert first[0] != second[0] and first[1] != second[1]
    assert orders(0, 1) == [second] and orders(1, 0)[0][0] != first[0]


def test_repeated_augmentation_spreads_copies_over_processes():
    shares = [list(EpochSampler(range(300), 3, rank, repeats=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [85, 85, 85]  # timm rounds 300 down to 256, and takes a third
    assert shares[0] == shares[1] == shares[2]  # every process another augmentation of the same images
    assert len(set(shares[0])) == 85


def test_training_batches_are_the_same_in_the_same_epoch_with_workers_and_without():
    data = [D.Digits(size=8, workers=workers, batch_size=32, samples=160) for workers in (0, 1)]
    batches = []
    for one in data:
        one.setup()
        batches.append([labels.tolist() for _, labels in one.train_dataloader()])
    assert batches[0] == batches[1] and len(batches[0]) == 4


def test_cutout_blanks_a_square_that_may_reach_outside():
    torch.manual_seed(0)
    sizes = set()
    for _ in range(200):
        hole = Cutout(4)(torch.ones(2, 6, 6)) == 0
        assert torch.equal(hole[0], hole[1])
        rows, columns = hole[0].any(1).nonzero().ravel(), hole[0].any(0).nonzero().ravel()
        assert int(hole[0].sum()) == len(rows) * len(columns)
        assert len(rows) == rows[-1] - rows[0] + 1 and len(columns) == columns[-1] - columns[0] + 1
        sizes.add((len(rows), len(columns)))
    assert sizes == set(itertools.product((2, 3, 4), repeat=2))


@pytest.mark.parametrize("kind", [D.DARTSCIFAR, D.DARTSImageNet, D.Timm, D.Plain])
def test_transforms_take_any_picture_and_tell_the_same_settings_again(kind):
    size = 20
    made = kind(size=size)
    for mode in ("RGB", "L"):
        for run in (made.train, made.test):
            assert run(Image.new(mode, (24, 24))).shape == (3, size, size)
    assert repr(made) == repr(kind(size=size)) != repr(kind(size=size + 1)) and "0x" not in repr(made)


# ------------------------------------------------------------------ the sphere


def slowly(image, point):
    """What a point of the sphere sees, by the definition, in float64."""
    x, y, z = point
    if z > 0:
        return np.zeros(image.shape[0])
    channels, height, width = image.shape
    across, down = 2 * x / (1 - z), 2 * y / (1 - z)  # in the plane, where the image reaches from -1.5 to 1.5
    column, row = (across / 1.5 + 1) / 2 * width - 0.5, (down / 1.5 + 1) / 2 * height - 0.5
    total = np.zeros(channels)
    for i in (int(np.floor(row)), int(np.floor(row)) + 1):
        for j in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return total


def test_the_projection_is_its_definition():
    image = torch.rand(2, 7, 9, dtype=torch.float64)
    rotation = random_rotation(4)
    for turn in (None, rotation):
        found = on_sphere(image, turn, bandwidth=5)
        grid = sphere_grid(5)
        for j, k in itertools.product(range(10), range(10)):
            point = grid[j, k] if turn is None else turn @ grid[j, k]
            assert np.allclose(found[:, j, k].numpy(), slowly(image.numpy(), point), atol=1e-12)


def test_the_grid_has_unit_points_from_pole_to_pole():
    grid = sphere_grid(30)
    assert grid.shape == (60, 60, 3) and np.allclose(np.linalg.norm(grid, axis=2), 1)
    assert np.allclose(np.arccos(grid[:, 0, 2]), np.pi * (2 * np.arange(60) + 1) / 120)
    assert np.allclose(grid[:, 0, 1], 0) and (np.diff(np.unwrap(np.arctan2(grid[5, :, 1], grid[5, :, 0]))) > 0).all()


def test_turning_about_the_axis_shifts_the_columns():
    image = torch.rand(3, 32, 32)
    plain = on_sphere(image)
    angle = 2 * np.pi * 7 / 60
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    assert torch.allclose(on_sphere(image, turn), plain.roll(-7, 2), atol=1e-5)
    assert plain[:, :30].abs().max() == 0 and plain[:, 30:].abs().min() >= 0
    assert (plain[:, -1] > 0).all()  # all around the pole


def test_rotations_are_uniform_and_follow_from_the_seed():
    poles = np.stack([random_rotation(0, i)[:, 2] for i in range(2000)])
    assert np.abs(poles.mean(0)).max() < 0.05 and np.abs((poles**2).mean(0) - 1 / 3).max() < 0.03
    assert np.array_equal(random_rotation(1, 2), random_rotation(1, 2))


# ------------------------------------------------------------------ Taskonomy


@pytest.fixture
def taskonomy(tmp_path):
    """Two buildings with two pictures each, and the targets of every task."""
    rng = np.random.default_rng(0)
    for building, point in itertools.product(("aloha", "bolton"), range(2)):
        stem = f"point_{point}_view_0_domain"
        place = tmp_path / building
        picture(place / "rgb" / f"{stem}_rgb.png", seed=point, size=64)
        picture(place / "normal" / f"{stem}_normal.png", seed=point + 9, size=64)
        (place / "segmentsemantic").mkdir() if point == 0 else None
        Image.fromarray(rng.integers(0, 18, (64, 64), dtype=np.uint8)).save(
            place / "segmentsemantic" / f"{stem}_segmentsemantic.png"
        )
        for domain, length in (("class_object", 1000), ("class_scene", 365), ("room_layout", 9)):
            (place / domain).mkdir(exist_ok=True)
            np.save(place / domain / f"{stem}_{domain}.npy", rng.random(length).astype(np.float32))
    (tmp_path / "splits.csv").write_text("id,train,val,test\naloha,1,0,0\nbolton,0,1,1\n")
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_targets_of_every_task_fit_its_loss(task, taskonomy):
    data = D.Taskonomy(
        str(taskonomy), task, str(taskonomy / "splits.csv"), size=64, workers=0, batch_size=2, test_batch_size=2
    )
    data.setup()
    images, targets = next(iter(data.test_dataloader()))
    assert images.shape == ((2, 9, 3, 16, 16) if task == "jigsaw" else (2, 3, 64, 64))
    outputs = {
        "class_object": (2, 1000),
        "class_scene": (2, 365),
        "room_layout": (2, 9),
        "jigsaw": (2, 1000),
        "segmentsemantic": (2, 17, 64, 64),
    }.get(task, (2, 3, 64, 64))
    assert torch.isfinite(LOSSES[task](torch.randn(outputs), targets))
    first = taskonomy / "bolton" / task / f"point_0_view_0_domain_{task}"
    if task in ("class_object", "class_scene"):
        values = np.load(first.with_suffix(".npy"))
        assert np.allclose(targets[0], values / values.sum(), atol=1e-6)
    elif task == "room_layout":
        assert np.array_equal(targets[0], np.load(first.with_suffix(".npy")))
    elif task == "normal":
        pixels = np.asarray(Image.open(first.with_suffix(".png"))) / 255 * 2 - 1
        assert np.allclose(targets[0], pixels.transpose(2, 0, 1), atol=1e-6)
    elif task == "segmentsemantic":
        numbers = np.asarray(Image.open(first.with_suffix(".png"))).astype(int)
        assert np.array_equal(targets[0], np.maximum(numbers, 1) - 1)
    elif task == "autoencoder":
        assert torch.equal(images, targets) and images.min() >= -1 and images.max() <= 1


def test_classes_that_are_kept_are_brought_to_one(taskonomy):
    mask = np.zeros(365)
    mask[[3, 50, 200]] = 1
    np.save(taskonomy / "kept.npy", mask)
    data = D.Taskonomy(
        str(taskonomy), "class_scene", str(taskonomy / "splits.csv"), str(taskonomy / "kept.npy"), size=64, workers=0
    )
    data.setup()
    values = np.load(taskonomy / "bolton" / "class_scene" / "point_1_view_0_domain_class_scene.npy")[[3, 50, 200]]
    assert data.num_classes == 3 and np.allclose(data.parts["test"][1][1], values / values.sum())


@pytest.mark.parametrize("task", TASKS)
def test_fake_taskonomy_has_the_spaces_shapes(task):
    data = D.Taskonomy(task=task, fake=True, batch_size=2)
    data.setup()
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape[1:] == IMAGE_SHAPES[task] and data.num_classes == TASKS[task]


def test_taskonomy_says_what_is_missing(taskonomy):
    splits = str(taskonomy / "splits.csv")
    with pytest.raises(InputError, match=r"data\.splits"):
        D.Taskonomy(str(taskonomy)).setup()
    with pytest.raises(InputError, match="class_object"):
        D.Taskonomy(str(taskonomy), "class_objekt")
    (taskonomy / "aloha" / "normal" / "point_1_view_0_domain_normal.png").unlink()
    with pytest.raises(InputError, match="1 targets of normal are missing"):
        D.Taskonomy(str(taskonomy), "normal", splits).setup()
