# ruff: noqa: C408
# A Mask R-CNN that can be trained, but learns nothing: for tests of what a run keeps.
_base_ = ["../../../recipes/burgerformer_coco/configs/mask_rcnn_small.py"]
model = dict(
    neck=dict(out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=40, max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(nms_pre=40, max_per_img=20), rcnn=dict(max_per_img=5)),
)
