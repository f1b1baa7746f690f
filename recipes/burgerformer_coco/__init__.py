"""A detection backbone found by L-SWAG: BurgerFormer with Mask R-CNN on COCO, in MMDetection."""
