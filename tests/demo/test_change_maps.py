"""Maps of what shifts do: one period of all images where that repeats, every shift of a few where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aps_deploy.demo import change_maps as module
from aps_deploy.demo.change_maps import change_maps, repeats
from aps_deploy.verification import Consistency, measure_consistency, shift_set
from tests.verification.fakes import FakeRunner, Images, corner, integer_images, invariant

SIDE = 8


class _Session(FakeRunner):
    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _grid_sums(images: Images) -> npt.NDArray[np.float32]:
    """A network of total stride 2: what it says depends on where the picture lies on that grid."""
    return np.stack([images[:, :, ::2, ::2].sum(axis=(1, 2, 3)), images[:, :, 1::2, ::2].sum(axis=(1, 2, 3))], axis=1)


def _watched(function: Callable[[Images], npt.NDArray[Any]], images: Images) -> Consistency:
    return measure_consistency(FakeRunner(function), images, shift_set("all", height=SIDE, width=SIDE))


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Images:
    functions = {"grid": _grid_sums, "invariant": invariant, "corner": corner}
    monkeypatch.setattr(module, "open_session", lambda path, runtime: _Session(functions[Path(path).stem]))
    return integer_images(40, SIDE, SIDE)


def test_one_period_of_all_images_is_what_every_shift_of_all_images_shows(images: Images) -> None:
    files = {name: Path(f"{name}.onnx") for name in ("grid", "invariant")}
    watched = {"grid": _watched(_grid_sums, images[:6]), "invariant": _watched(invariant, images[:6])}
    maps, num_images = change_maps(files, images, watched, total_stride=2)
    assert num_images == 40
    whole = _watched(_grid_sums, images).heat_map(SIDE, SIDE)
    assert whole.max() > 0
    np.testing.assert_array_equal(maps["grid"], whole)
    assert not maps["invariant"].any()


def test_what_does_not_repeat_is_shown_as_it_was_watched(images: Images) -> None:
    watched = {"corner": _watched(corner, images[:6])}
    maps, num_images = change_maps({"corner": Path("corner.onnx")}, images, watched, total_stride=2)
    assert num_images == 6
    np.testing.assert_array_equal(maps["corner"], watched["corner"].heat_map(SIDE, SIDE))


def test_a_map_repeats_only_in_whole_periods() -> None:
    tile = np.arange(4.0).reshape(2, 2)
    assert repeats(np.tile(tile, (3, 2)), 2)
    assert not repeats(np.tile(tile, (3, 2)), 3)
    assert not repeats(np.arange(16.0).reshape(4, 4), 2)
