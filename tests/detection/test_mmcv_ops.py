"""The stand-in for mmcv's compiled operations, against plain loops."""

import importlib.util
import sys
import types

import pytest
import torch
import torchvision

from lswag_hooks.detection import compat, mmcv_ops


def bilinear(image, y, x):
    """Value of (C, H, W) at a place; nothing beyond a pixel outside, as roi_align has it."""
    height, width = image.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(len(image), dtype=image.dtype)
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    return (
        image[:, top, left] * (1 - down) * (1 - along)
        + image[:, bottom, left] * down * (1 - along)
        + image[:, top, right] * (1 - down) * along
        + image[:, bottom, right] * down * along
    )


def plain_roi_align(features, rois, size, scale, ratio, aligned):
    """The definition in He et al. 2017, cell by cell; differentiable."""
    shift = 0.5 if aligned else 0.0
    pooled = []
    for number, *box in rois.tolist():
        x1, y1, x2, y2 = (side * scale - shift for side in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        cells = []
        for row in range(size):
            for column in range(size):
                points = [
                    bilinear(
                        features[int(number)],
                        y1 + (row + (i + 0.5) / ratio) * height / size,
                        x1 + (column + (j + 0.5) / ratio) * width / size,
                    )
                    for i in range(ratio)
                    for j in range(ratio)
                ]
                cells.append(torch.stack(points).mean(0))
        pooled.append(torch.stack(cells, 1).view(-1, size, size))
    return torch.stack(pooled)


def plain_nms(boxes, scores, threshold, offset):
    kept = []
    for index in scores.argsort(descending=True).tolist():
        a = boxes[index].tolist()
        for other in kept:
            b = boxes[other].tolist()
            w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
            h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
            areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
            if w * h / (sum(areas) - w * h) > threshold:
                break
        else:
            kept.append(index)
    return kept


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient(aligned):
    features = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 2.0, 3, 30, 28], [1, -8, 4, 12, 60], [1, 10, 10, 11, 11]], dtype=torch.float64)
    options = {"aligned_height": 3, "aligned_width": 3, "spatial_scale": 0.25, "sampling_ratio": 2}
    options |= {"pool_mode": 1, "aligned": aligned}
    nothing = torch.zeros(0)
    output = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    mmcv_ops.roi_align_forward(features.detach(), rois, output, nothing, nothing, **options)
    expected = plain_roi_align(features, rois, 3, 0.25, 2, aligned)
    assert torch.allclose(output, expected, atol=1e-12)
    towards = torch.randn_like(output)
    found = torch.zeros_like(features)
    mmcv_ops.roi_align_backward(towards, rois, nothing, nothing, found, **options)
    (wanted,) = torch.autograd.grad(expected, features, towards)
    assert torch.allclose(found, wanted, atol=1e-12) and bool(wanted.any())


@pytest.mark.parametrize("offset", [0, 1])
def test_nms(offset):
    corner = torch.rand(60, 2) * 20
    boxes = torch.cat([corner, corner + 1 + torch.rand(60, 2) * 12], 1)
    scores = torch.rand(60)
    kept = mmcv_ops.nms(boxes, scores, 0.3, offset=offset).tolist()
    assert kept == plain_nms(boxes, scores, 0.3, offset)
    assert 5 < len(kept) < 60


def test_pixels_that_count_themselves_overlap_more():
    boxes = torch.tensor([[0.0, 0, 3, 3], [0, 2, 3, 5]])  # 3 of 15 without the last row and column, 8 of 24 with them
    scores = torch.tensor([1.0, 0.9])
    assert len(mmcv_ops.nms(boxes, scores, 0.3)) == 2 and len(mmcv_ops.nms(boxes, scores, 0.3, offset=1)) == 1


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives():
    features = torch.randn(2, 3, 9, 11)
    rois = torch.tensor([[0, 2.0, 3, 30, 28], [1, 10, 10, 21, 31]])
    options = {"aligned_height": 7, "aligned_width": 7, "spatial_scale": 0.25, "sampling_ratio": 0}
    options |= {"pool_mode": 1, "aligned": True}
    towards, found = torch.randn(2, 3, 7, 7), {}
    for device in ("cpu", "cuda"):
        there = [tensor.to(device) for tensor in (features, rois, torch.zeros(2, 3, 7, 7), torch.zeros(0), towards)]
        mmcv_ops.roi_align_forward(there[0], there[1], there[2], there[3], there[3], **options)
        gradient = torch.zeros_like(there[0])
        mmcv_ops.roi_align_backward(there[4], there[1], there[3], there[3], gradient, **options)
        kept = mmcv_ops.nms(there[1][:, 1:], torch.tensor([0.3, 0.8], device=device), 0.1)
        found[device] = [there[2].cpu(), gradient.cpu(), kept.cpu().float()]
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_other_operations_fail_by_name_and_only_when_called():
    extension = mmcv_ops.Extension("mmcv._ext")
    assert extension.nms is mmcv_ops.nms and extension.__spec__ is not None
    function = extension.deform_conv_forward
    with pytest.raises(NotImplementedError, match=r"deform_conv_forward.*compiled mmcv"):
        function(1, other=2)
    options = {"aligned_height": 1, "aligned_width": 1, "spatial_scale": 1.0, "sampling_ratio": 0, "aligned": True}
    nothing = torch.zeros(0)
    with pytest.raises(NotImplementedError, match=r"max"):
        mmcv_ops.roi_align_forward(nothing, nothing, nothing, nothing, nothing, pool_mode=0, **options)
    with pytest.raises(AttributeError):
        extension.__path__  # noqa: B018


def test_a_compiled_mmcv_is_left_alone(monkeypatch):
    compiled = types.ModuleType("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    compat._stand_in()
    assert sys.modules["mmcv._ext"] is compiled and compat.is_compiled()
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())  # installed, and not imported yet
    compat._stand_in()
    assert "mmcv._ext" not in sys.modules


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mmdet" else object())
    with pytest.raises(ValueError, match=r"mmdet is not installed: pip install 'lswag-hooks\[detection\]'"):
        compat.prepare()


class TestInsideMMCV:
    @pytest.fixture(autouse=True)
    def _prepared(self):
        pytest.importorskip("mmdet", reason="needs the extra: pip install 'lswag-hooks[detection]'")
        compat.prepare()

    def test_it_serves_mmcv(self):
        from mmcv.ops import get_compiler_version, nms, roi_align

        if compat.is_compiled():
            pytest.skip("a compiled mmcv is installed")
        assert "torchvision" in get_compiler_version()
        features = torch.randn(2, 4, 8, 8, requires_grad=True)
        rois = torch.tensor([[0, 1.0, 2, 20, 25], [1, 0, 0, 31, 31]])
        out = roi_align(features, rois, 7, 0.25, 0, "avg", True)
        expected = torchvision.ops.roi_align(features, rois, 7, 0.25, 0, True)
        assert torch.equal(out, expected)
        towards = torch.randn_like(out)
        (found,), (wanted,) = (torch.autograd.grad(one, features, towards) for one in (out, expected))
        assert torch.equal(found, wanted)
        boxes, kept = nms(rois[:, 1:], torch.tensor([0.2, 0.7]), 0.9)
        assert kept.tolist() == [1, 0] and boxes.shape == (2, 5)

    def test_checkpoints_of_mmengine_are_read_and_others_are_not(self, tmp_path):
        import os
        import pickle

        from mmengine.logging import HistoryBuffer

        history = HistoryBuffer([1.0, 2.5], [1, 1])
        torch.save({"state": torch.ones(2), "losses": {"loss": history}}, tmp_path / "good.pth")
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "good.pth")
        with compat.readable_checkpoints():
            read = torch.load(tmp_path / "good.pth")["losses"]["loss"]
        assert read.data[0].tolist() == [1.0, 2.5] and read.mean() == 1.75

        class Reaching:
            def __reduce__(self):
                return getattr, (HistoryBuffer, "__init__")

        class Running:
            def __reduce__(self):
                return os.system, ("true",)

        for evil in (Reaching(), Running()):
            torch.save({"x": evil}, tmp_path / "evil.pth")
            with compat.readable_checkpoints(), pytest.raises((pickle.UnpicklingError, NotImplementedError)):
                torch.load(tmp_path / "evil.pth")
        with pytest.raises(pickle.UnpicklingError):  # and after the block all is as it was
            torch.load(tmp_path / "good.pth")
