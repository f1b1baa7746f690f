"""Data of the recipes: a path that the user gives, a clear message where something is missing, never a download."""

from recipes.data.arrays import NPZ, Digits
from recipes.data.base import ImageData
from recipes.data.imagenet16 import ImageNet16120
from recipes.data.readers import CIFAR10, CIFAR100, SVHN, ImageNet, Pets
from recipes.data.spherical_cifar import SphericalCIFAR100
from recipes.data.taskonomy import Taskonomy
from recipes.data.transforms import DARTSCIFAR, DARTSImageNet, Plain, Timm, Transforms

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DARTSCIFAR",
    "NPZ",
    "SVHN",
    "DARTSImageNet",
    "Digits",
    "ImageData",
    "ImageNet",
    "ImageNet16120",
    "Pets",
    "Plain",
    "SphericalCIFAR100",
    "Taskonomy",
    "Timm",
    "Transforms",
]
