"""Detectors and their backbones: MMDetection without a compile step, torchvision, and backbones at detection size."""
