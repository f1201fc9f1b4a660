from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aps_deploy import image_stream
from aps_deploy.errors import InputError
from aps_deploy.image_stream import StreamedImages
from aps_deploy.images import load_images
from aps_deploy.preprocessing import IMAGENET, Preprocessing
from aps_deploy.runtimes.batching import Selected

BGR = Preprocessing(24, 28, (0.1, 0.5, 0.9), (0.2, 0.25, 0.3), channel_order="BGR", interpolation="bicubic")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every byte occurs in them, as colour, grey and palette, in several sizes."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    made = []
    for number, (mode, size) in enumerate([("RGB", (40, 30)), ("L", (24, 24)), ("P", (20, 50)), ("RGB", (300, 260))]):
        pixels = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
        made.append(root / f"{number}.png")
        Image.fromarray(pixels).convert(mode).save(made[-1])
    return made


@pytest.mark.parametrize("preprocessing", [IMAGENET, BGR, Preprocessing(32, None, (0, 0, 0), (1, 1, 1))])
@pytest.mark.parametrize("kept_bytes", [0, 2**30])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_its_parts_are_those_of_the_loaded_array(
    preprocessing: Preprocessing, kept_bytes: int, num_workers: int, paths: list[Path]
) -> None:
    expected = load_images(paths, preprocessing)
    images = StreamedImages(paths, preprocessing, kept_bytes=kept_bytes, num_workers=num_workers)
    assert images.shape == expected.shape and len(images) == 4
    for rows in (slice(0, 2), slice(1, 99), slice(3, 3), np.array([3, 0, 3]), slice(None)):
        part: Any = images[rows]
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part.view(np.uint8), expected[rows].view(np.uint8))


@pytest.mark.parametrize(("kept_bytes", "decoded"), [(0, 7), (4 * 24 * 24 * 3, 4), (4 * 24 * 24 * 3 - 1, 7)])
def test_what_fits_the_budget_is_decoded_once(
    kept_bytes: int, decoded: int, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    load = image_stream.load_image
    monkeypatch.setattr(image_stream, "load_image", lambda path: seen.append(path) or load(path))
    images = StreamedImages(paths, BGR, kept_bytes=kept_bytes)
    for rows in (slice(0, 2), slice(2, 4), slice(1, 4)):
        images[rows]
    assert len(seen) == decoded


def test_an_unreadable_image_is_named(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:100])
    images = StreamedImages([*paths, tmp_path / "broken.png", tmp_path / "none.png"], BGR)
    images[0:4]
    with pytest.raises(InputError, match=r"broken\.png"):
        images[3:6]


def test_a_selection_takes_its_own_rows(paths: list[Path]) -> None:
    expected = load_images(paths, BGR)
    some = Selected(StreamedImages(paths, BGR), np.array([3, 1, 2]))
    assert some.shape == (3, 3, 24, 24) and len(some) == 3
    np.testing.assert_array_equal(some[1:3], expected[[1, 2]])
    np.testing.assert_array_equal(some[np.array([0])], expected[[3]])
