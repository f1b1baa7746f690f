"""Annotation files: found, checked before any picture is opened, and read to the pixel."""

import json

import numpy as np
import pytest
import torch

import lswag_hooks as lh
from lswag_hooks.detection.coco import check_complete, coco_batch, find_coco, load_coco, polygon_mask, read_coco
from lswag_hooks.detection.shapes import draw_shapes, shapes_batch, write_shapes
from lswag_hooks.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return write_shapes(tmp_path / "shapes", 5, (80, 60), seed=1)


def changed(folder, change):
    file = folder / "instances.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_boxes_and_masks_are_where_the_shapes_are(folder):
    coco = load_coco(folder)
    batch = coco_batch(coco, 5, None)
    colours = {1: (200, 60, 50), 2: (60, 160, 70), 3: (60, 90, 200)}
    for picture, target in zip(batch.inputs, batch.targets, strict=True):
        pixels = (picture * 255).round().permute(1, 2, 0)
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
            painted = (pixels == torch.tensor(colours[int(label)])).all(-1)
            rows, columns = mask.nonzero().unbind(1)
            assert bool(painted[rows, columns].all())  # the mask covers its own colour only
            inside = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()])
            assert float((inside - box).abs().max()) <= 1.5
    assert sum(len(target["labels"]) for target in batch.targets) == len(coco.content["annotations"])


def test_pictures_keep_their_aspect_and_boxes_go_with_them(folder):
    coco = load_coco(folder)
    plain, large = coco_batch(coco, 3, None), coco_batch(coco, 3, (160, 90))
    assert {tuple(picture.shape) for picture in large.inputs} == {(3, 90, 120)}  # 1.5 times: the shortest side binds
    for before, after in zip(plain.targets, large.targets, strict=True):
        assert torch.allclose(after["boxes"], before["boxes"] * 1.5, atol=1e-4)
        assert after["masks"].shape[1:] == (90, 120)
        areas = after["masks"].sum((1, 2)) / before["masks"].sum((1, 2))
        assert bool(((areas - 2.25).abs() < 0.35).all())


def test_crowds_empty_boxes_and_empty_pictures_are_left_out(folder):
    def change(content):
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in (1, 2, 3)]
        mine = [a for a in content["annotations"] if a["image_id"] == 1]
        mine[0]["iscrowd"], mine[0]["segmentation"] = 1, {"counts": [1], "size": [60, 80]}
        for other in mine[1:]:
            other["bbox"][2] = 0

    changed(folder, change)
    coco = load_coco(folder)
    assert set(coco.instances) == {2, 3} and len(coco_batch(coco, 9, None)) == 2


def test_labels_follow_the_categories_of_the_file(folder):
    changed(folder, lambda content: content["categories"].reverse())
    target = coco_batch(load_coco(folder), 5, None).targets
    by_id = [a["category_id"] for a in json.loads((folder / "instances.json").read_text())["annotations"]]
    assert [int(label) for one in target for label in one["labels"]] == [4 - number for number in by_id]


def test_a_polygon_against_the_even_odd_rule():
    polygon = [2.0, 1.0, 17.0, 4.0, 9.0, 13.0]
    mask = polygon_mask([polygon], (20, 16))
    corners = np.array(polygon).reshape(-1, 2)

    def inside(x, y):
        odd = False
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
                odd = not odd
        return odd

    expected = np.array([[inside(x, y) for x in range(20)] for y in range(16)])
    assert int((mask != expected).sum()) <= 15  # of the outline
    assert polygon_mask(None, (4, 4)).sum() == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["images"][0].update(file_name="gone.png"), "1 of the 5 pictures.*gone.png"),
        (lambda c: c["categories"].clear(), "no categories"),
        (lambda c: c["annotations"].clear(), "no annotations"),
        (lambda c: c["images"].clear(), "no images"),
        (lambda c: c.pop("categories"), "no COCO annotation file"),
        (lambda c: c["annotations"][0].update(category_id=9), "category_id.*9"),
        (lambda c: c["annotations"][0].update(image_id=77), "image_id.*77"),
        (lambda c: c["images"][2].pop("file_name"), "1 of its images have no file_name, such as 3"),
        (lambda c: c["annotations"][0].pop("bbox"), "1 of its annotations have no bbox, such as 1"),
        (lambda c: c["categories"][1].update(id=1), "twice"),
        (lambda c: c["categories"][1].update(name="disc"), "name of its own"),
    ],
)
def test_bad_annotations_are_refused(folder, change, said):
    changed(folder, change)
    with pytest.raises(InputError, match=said):
        load_coco(folder)


@pytest.mark.parametrize(
    ("part", "key"), [("images", "width"), *(("annotations", key) for key in ("segmentation", "area", "iscrowd"))]
)
def test_what_training_needs_beyond_boxes_is_refused_where_it_lacks(folder, part, key):
    assert check_complete(load_coco(folder)).classes == ("disc", "square", "triangle")
    changed(folder, lambda content: content[part][1].pop(key))
    with pytest.raises(InputError, match=f"1 of its {part} have no {key}, such as 2"):
        check_complete(load_coco(folder))


def test_files_that_are_not_there(folder, tmp_path):
    with pytest.raises(InputError, match="holds no COCO"):
        find_coco(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_coco(tmp_path / "a.json", tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        read_coco(folder / "instances.json", tmp_path / "pictures")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_coco(tmp_path / "b.json", tmp_path)
    (folder / "images" / "000001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"000001.png cannot be read as an image"):
        coco_batch(load_coco(folder), 5)


def test_the_layout_of_coco_itself(folder, tmp_path):
    (tmp_path / "annotations").mkdir()
    (folder / "instances.json").rename(tmp_path / "annotations" / "instances_val2017.json")
    (folder / "images").rename(tmp_path / "val2017")
    assert len(coco_batch(load_coco(tmp_path, "val"), 5)) == 5
    with pytest.raises(InputError, match="holds no COCO"):
        load_coco(tmp_path, "train")


def test_a_batch_for_detectors_by_name(folder):
    batch = lh.Batch.load(str(folder), (3, 48, 64), samples=2)
    assert batch.inputs[0].shape == (3, 48, 64)
    assert batch.fingerprint == lh.Batch.from_coco(folder, 2, (64, 48)).fingerprint
    assert lh.Batch.load("shapes", (3, 32, 64), 2).inputs[1].shape == (3, 32, 64)


def test_drawn_shapes_are_the_same_for_a_seed():
    assert shapes_batch(3, seed=4).fingerprint == shapes_batch(3, seed=4).fingerprint
    assert shapes_batch(3, seed=4).fingerprint != shapes_batch(3, seed=5).fingerprint
    with pytest.raises(InputError, match="16 x 16"):
        draw_shapes(2, (8, 8))
