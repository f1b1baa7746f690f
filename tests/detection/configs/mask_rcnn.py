# ruff: noqa: C408
# A small Mask R-CNN, for tests.
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py"]
model = dict(
    backbone=dict(_delete_=True, type="LSWAGBackbone", spec="timm/test_resnet"),
    neck=dict(in_channels=[32, 48, 192, 96], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=64, num_classes=3),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_classes=3, num_convs=1),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
)
train_pipeline = [dict(type="Resize", scale=(320, 200), keep_ratio=True)]
