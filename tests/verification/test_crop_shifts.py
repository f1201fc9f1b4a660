from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.verification.crop_shifts import Scene, load_scene, measure_crop_shifts, padded_scene, spread_positions
from aps_deploy.verification.report.crop_section import crop_section
from aps_deploy.verification.table import certificate_table
from tests.verification.fakes import FakeRunner, Images, corner, integer_images, invariant
from tests.verification.samples import bare_certificate, make_certificate


def _one_class(images: Images) -> npt.NDArray[np.float32]:
    return np.tile(np.float32([0, 1, 0]), (len(images), 1))


def _column_of_the_mark(images: Images) -> npt.NDArray[np.float32]:
    """Return one logit per column: the class is where the brightest pixel of the window stands."""
    return images[:, 0].max(axis=1)


def _marked(column: int, *, count: int = 5, size: int = 8) -> Images:
    images = np.zeros((count, 3, size, size), np.float32)
    images[:, :, size // 2, column] = 1
    return images


def test_windows_are_cut_where_they_say() -> None:
    picture = integer_images(2, 10, 12)
    scene = Scene(picture, 2, "window")
    assert np.array_equal(scene.window((0, 0)), picture[:, :, 2:8, 2:10])
    assert np.array_equal(scene.window((-2, 1)), picture[:, :, 0:6, 3:11])
    padded = padded_scene(picture)
    assert (padded.margin, padded.images.shape) == (3, (2, 3, 16, 18))
    assert np.array_equal(padded.window((0, 0)), picture)
    assert not padded.window((-3, 0))[:, :, :3].any()


def test_a_function_that_ignores_the_image_keeps_its_class() -> None:
    runner = FakeRunner(_one_class)
    found = measure_crop_shifts(runner, runner, padded_scene(integer_images(5)), batch_size=2)
    assert found.file_percent == found.reference_percent == (100, 100, 100)
    assert (found.num_images, found.num_windows, found.distances) == (5, 12, (1, 2, 3))
    assert found.same_class_percent == 100


def test_what_is_kept_is_counted_by_distance() -> None:
    # The class is a column: lost by every move to a side, kept by every move up or down.
    moving, fixed = FakeRunner(_column_of_the_mark), FakeRunner(_one_class)
    found = measure_crop_shifts(moving, fixed, padded_scene(_marked(4)))
    assert found.file_percent == (50, 50, 50)
    assert found.file_top1_percent == 50
    assert found.reference_top1_percent == 100
    # Class 1 is where the mark stands in the window that is moved 3 pixels to the right, and nowhere else.
    assert found.same_class_percent == pytest.approx(100 / 13)


def test_logits_that_are_no_numbers_keep_nothing() -> None:
    broken = FakeRunner(lambda images: np.full((len(images), 3), np.nan, np.float32))
    found = measure_crop_shifts(broken, broken, padded_scene(integer_images(2)))
    assert found.file_top1_percent == found.same_class_percent == 0


def test_nothing_to_move_is_refused() -> None:
    runner = FakeRunner(_one_class)
    for scene in (padded_scene(integer_images(2)[:0]), Scene(integer_images(2), 0, "window")):
        with pytest.raises(InputError, match="are not defined"):
            measure_crop_shifts(runner, runner, scene)


def test_images_are_spread() -> None:
    assert spread_positions(3) == [0, 1, 2]
    assert spread_positions(100, 4) == [0, 33, 66, 99]
    assert len(spread_positions(10_000)) == 16


def test_a_picture_larger_than_the_crop_gives_its_own_surroundings(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    preprocessing = Preprocessing(16, 20, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    scene = load_scene([tmp_path / "a.png"], preprocessing)
    assert scene is not None
    assert (scene.kind, scene.margin, scene.images.shape) == ("window", 2, (1, 3, 20, 20))
    whole = preprocessing.normalize(Image.fromarray(pixels))
    assert np.array_equal(scene.window((0, 0))[0], whole[:, 2:18, 4:20])
    assert np.array_equal(scene.window((2, -1))[0], whole[:, 4:20, 3:19])


@pytest.mark.parametrize("resize", [None, 16, 17])
def test_a_picture_that_is_kept_whole_has_no_surroundings(resize: int | None, tmp_path: Path) -> None:
    assert load_scene([tmp_path / "a.png"], Preprocessing(16, resize, (0.5,) * 3, (0.25,) * 3)) is None


def test_it_is_reported_and_fails_nothing(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, corner, reference=invariant)
    check = certificate.check("crop_consistency")
    found = certificate.details["crop_shifts"]
    assert (check.status, check.measured) == ("reported", found["file_top1_percent"])
    assert found["kind"] == "padding"
    assert make_certificate(tmp_path, gates={"crop_consistency": 100.0}).check("crop_consistency").status == "failed"
    page = "".join(map(str, crop_section(certificate)))
    assert page.count("<tr>") == 4 and "nothing is promised" in page
    assert "No windows were moved" in "".join(map(str, crop_section(bare_certificate())))


def test_the_table_has_a_line_of_it(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=160).print(certificate_table(make_certificate(tmp_path)))
    assert "windows moved by 1 to 3 pixels (padding; nothing is promised): the file keeps" in stream.getvalue()
