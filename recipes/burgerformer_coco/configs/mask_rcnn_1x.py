# ruff: noqa: C408
# Mask R-CNN with a feature pyramid on any backbone, 12 epochs: MMDetection's own parts, and BurgerFormer's settings for
# what differs. `detect` fills in the backbone, the channels of its maps, the classes and the paths.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
model = dict(
    backbone=dict(_delete_=True, type="LSWAGBackbone", spec="burgerformer/BurgerFormer-B"),
    neck=dict(in_channels=[96, 128, 320, 512]),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=2e-4, weight_decay=1e-4),  # for 8 GPUs with 2 pictures each
    clip_grad=None,
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
