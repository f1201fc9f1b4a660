"""Random crops against torchvision's, and what they depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from aps_deploy.preprocessing import Preprocessing
from aps_deploy.training.image_files import FileImages
from aps_deploy.training.random_crop import draw_box, random_resized_crop
from tests.training.conftest import write_class_folders

SIZE = (160, 120)


def test_a_crop_is_torchvisions_crop_of_the_same_box() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for seed in range(5):
        left, upper, right, lower = draw_box(*SIZE, np.random.default_rng(seed))
        expected = resized_crop(image, upper, left, lower - upper, right - left, [64, 64])
        assert random_resized_crop(image, 64, np.random.default_rng(seed)).tobytes() == expected.tobytes()


def test_boxes_are_spread_as_torchvisions() -> None:
    """Means of area, shape and place of many boxes, within four standard errors."""
    generator = np.random.default_rng(0)
    ours = np.array([draw_box(*SIZE, generator) for _ in range(4000)])
    torch.manual_seed(0)
    blank = torch.empty(3, SIZE[1], SIZE[0])
    drawn = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = np.array([(left, top, left + width, top + height) for top, left, height, width in drawn])
    for found in (features(ours), features(theirs)):
        assert found.shape == (4000, 4)
    one, other = features(ours), features(theirs)
    error = np.sqrt(one.var(axis=0) / 4000 + other.var(axis=0) / 4000)
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 4 * error).all()


def features(boxes: np.ndarray) -> np.ndarray:
    left, upper, right, lower = boxes.T
    assert (left >= 0).all() and (upper >= 0).all() and (right <= SIZE[0]).all() and (lower <= SIZE[1]).all()
    return np.stack([(right - left) * (lower - upper), (right - left) / (lower - upper), left, upper], axis=1)


def test_a_narrow_image_falls_back_to_the_middle() -> None:
    assert draw_box(4, 4000, np.random.default_rng(0)) in {(0, 1998, 4, 2003), (0, 1997, 4, 2002)}


def test_crops_depend_on_the_seed_and_the_image_only(tmp_path: Path) -> None:
    """Not on the workers, the batch an image is in, or where a pass begins; evaluation crops the centre."""
    write_class_folders(tmp_path, per_class=2, side=90)
    paths = sorted(tmp_path.rglob("*.png"))
    preprocessing = Preprocessing(64, 72, (0.5,) * 3, (0.5,) * 3)

    def files(workers: int) -> FileImages:
        return FileImages(paths, torch.arange(6), preprocessing, workers=workers, crops_at_random=True)

    def fetched(images: FileImages, order: list[int], size: int, seed: int | None) -> dict[int, torch.Tensor]:
        batches = images.batches(list(torch.tensor(order).split(size)), seed=seed)
        return {int(label): image for stack, labels in batches for image, label in zip(stack, labels, strict=True)}

    first = fetched(files(0), [0, 1, 2, 3, 4, 5], 4, seed=7)
    again = fetched(files(2), [5, 3, 1], 1, seed=7)
    assert all(torch.equal(first[number], image) for number, image in again.items()) and len(again) == 3
    other = fetched(files(0), [0, 1, 2, 3, 4, 5], 4, seed=8)
    assert not any(torch.equal(first[number], other[number]) for number in first)
    centre = fetched(files(0), [2], 1, seed=None)[2]
    with Image.open(paths[2]) as image:
        assert torch.equal(centre, pil_to_tensor(preprocessing.crop(image)))
