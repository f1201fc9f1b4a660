"""The random crop of modern ImageNet recipes: 8 to 100 % of the image, in any shape from 3:4 to 4:3, resized.

Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6; the draws are those of torchvision's
`RandomResizedCrop`: up to ten trials, then the largest box of a shape that is allowed.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

_AREA = (0.08, 1.0)
_SHAPE = (3 / 4, 4 / 3)
_TRIALS = 10


def random_resized_crop(image: Image.Image, side: int, generator: np.random.Generator) -> Image.Image:
    """Return a part of an image, resized to `side` x `side` pixels."""
    return image.crop(draw_box(*image.size, generator)).resize((side, side), Image.Resampling.BILINEAR)


def draw_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower border, in pixels, of a part of an image of that size."""
    for _ in range(_TRIALS):
        area = width * height * generator.uniform(*_AREA)
        shape = math.exp(generator.uniform(math.log(_SHAPE[0]), math.log(_SHAPE[1])))
        box_width, box_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(generator.integers(0, width - box_width + 1))
            upper = int(generator.integers(0, height - box_height + 1))
            return left, upper, left + box_width, upper + box_height
    box_width, box_height = min(width, round(height * _SHAPE[1])), min(height, round(width / _SHAPE[0]))
    left, upper = (width - box_width) // 2, (height - box_height) // 2
    return left, upper, left + box_width, upper + box_height
