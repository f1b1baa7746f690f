"""Images on the sphere: the projection of Spherical-CIFAR-100, as a pure function.

Cohen et al., "Spherical CNNs", ICLR 2018, put MNIST on the sphere so; NAS-Bench-360 (Tu et al., NeurIPS 2022) did it
with CIFAR-100, of bandwidth 30: 60×60 values.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

BANDWIDTH = 30
HALF_SIDE = (
    1.5  # of the image in the plane in which the equator has radius 2: its edges lie inside, its corners outside
)


def sphere_grid(bandwidth: int = BANDWIDTH) -> np.ndarray:
    """Points of the unit sphere: rows go from the north pole to the south, columns once around.

    Colatitudes are pi (2 j + 1) / (4 b), longitudes 2 pi k / (2 b), for j and k from 0 to 2 b - 1.

    Returns:
        Shape (2 b, 2 b, 3).

    Example:
        >>> sphere_grid(2).shape
        (4, 4, 3)
    """
    count = np.arange(2 * bandwidth)
    theta = np.pi * (2 * count + 1)[:, None] / (4 * bandwidth)
    phi = np.pi * count[None, :] / bandwidth
    return np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.broadcast_to(np.cos(theta), (len(count),) * 2)], 2
    )


def random_rotation(*seed: int) -> np.ndarray:
    """A rotation, uniform over all of them; the same seeds give the same. Shape (3, 3).

    Example:
        >>> turned = random_rotation(0, 5)
        >>> np.allclose(turned @ turned.T, np.eye(3)), round(float(np.linalg.det(turned)), 6)
        (True, 1.0)
    """
    found: np.ndarray = Rotation.random(random_state=np.random.default_rng(seed)).as_matrix()
    return found


def on_sphere(image: Tensor, rotation: np.ndarray | None = None, bandwidth: int = BANDWIDTH) -> Tensor:
    """An image projected onto the sphere.

    The image lies in the plane that touches the sphere at its south pole, and is projected stereographically, from the
    north pole: a point p = (x, y, z) of the sphere takes the value at 2 (x, y) / (1 - z), bilinearly, where the image
    reaches from -1.5 to 1.5. Only the southern hemisphere has values, the rest is 0. With a rotation R the value at p
    is what is at R p without.

    Args:
        image: shape (C, H, W).
        rotation: shape (3, 3).
        bandwidth: the result has twice as many rows and columns.

    Returns:
        Shape (C, 2 b, 2 b), rows are latitudes, columns longitudes.

    Example:
        >>> on_sphere(torch.ones(3, 32, 32), random_rotation(0)).shape
        torch.Size([3, 60, 60])
    """
    points = sphere_grid(bandwidth)
    if rotation is not None:
        points = points @ rotation.T
    x, y, z = np.moveaxis(points, -1, 0)
    south = z <= 0
    plane = np.stack([x, y], -1) * (2 / (1 - np.minimum(z, 0.0)))[..., None] / HALF_SIDE  # image: [-1, 1] each way
    grid = torch.from_numpy(plane)[None]
    values = F.grid_sample(image.double()[None], grid, "bilinear", "zeros", align_corners=False)[0]
    return (values * torch.from_numpy(south)).to(image.dtype)
