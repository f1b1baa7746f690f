"""Rank torchvision's detectors, with random weights, by their own losses on pictures with boxes."""

import functools

from torchvision.models import detection

import lswag_hooks as lh

SIZE = {"min_size": 64, "max_size": 96}  # theirs are 800 and 1333: slow on a CPU


def main() -> lh.Ranking:
    """Two detectors on drawn shapes; lh.Batch.from_coco("FOLDER") for pictures of your own."""
    batch = lh.Batch.builtin("shapes", size=(3, 64, 96), samples=2)
    options = {"weights": None, "weights_backbone": None, "num_classes": 4}  # three shapes, and the background
    candidates = {
        "Faster R-CNN": functools.partial(detection.fasterrcnn_mobilenet_v3_large_320_fpn, **options, **SIZE),
        "SSDlite": functools.partial(detection.ssdlite320_mobilenet_v3_large, **options),
    }
    ranking = lh.rank(candidates, batch, "lswag, zico", progress=False)  # no loss=: detectors bring theirs
    print(ranking)
    return ranking


if __name__ == "__main__":
    main()
