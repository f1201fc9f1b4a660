from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.pictures import pixels_of, png_of
from aps_deploy.verification.worst_case import WorstCase
from tests.verification.fakes import Images, corner, integer_images, invariant
from tests.verification.samples import CLASSES, HEIGHT, METADATA, WIDTH, measured_run


@pytest.fixture(scope="module")
def case() -> WorstCase:
    found = measured_run(corner).worst_case
    assert found is not None
    return found


def test_it_is_the_pair_that_changes_most(case: WorstCase) -> None:
    images = integer_images(20, HEIGHT, WIDTH)
    run = measured_run(corner)
    worst = None
    for image in images:
        for dy, dx in run.shifts.offsets:
            pair = (image[None], np.roll(image[None], (dy, dx), axis=(2, 3)))
            before, after = (corner(each)[0] for each in pair)
            key = (before.argmax() != after.argmax(), float(np.abs(before - after).max()))
            if worst is None or key > worst[0]:
                worst = (key, image, (dy, dx))
    assert worst is not None
    np.testing.assert_array_equal(case.image, worst[1])
    assert case.shift == worst[2]


def test_what_is_kept_can_be_run_again(case: WorstCase, tmp_path: Path) -> None:
    loaded = WorstCase.load(case.save(tmp_path / "worst.npz"))
    np.testing.assert_array_equal(loaded.image, case.image)
    assert (loaded.shift, loaded.about) == (case.shift, case.about)
    shifted = np.roll(loaded.image, loaded.shift, axis=(1, 2))
    np.testing.assert_array_equal(loaded.outputs["logits"], corner(loaded.image[None]))
    np.testing.assert_array_equal(loaded.shifted_outputs["logits"], corner(shifted[None]))
    np.testing.assert_array_equal(loaded.reference_logits, invariant(loaded.image[None]))
    np.testing.assert_array_equal(loaded.reference_shifted_logits, invariant(shifted[None]))


def test_the_same_case_gives_the_same_bytes(case: WorstCase, tmp_path: Path) -> None:
    first, second = (case.save(tmp_path / name).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "one array", "other arrays", "cut"])
def test_other_files_are_no_worst_case(kind: str, case: WorstCase, tmp_path: Path) -> None:
    path = tmp_path / "worst.npz"
    if kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"not an archive")
    elif kind == "one array":
        with open(path, "wb") as handle:
            np.save(handle, np.zeros(3))
    elif kind == "other arrays":
        np.savez(path, image=np.zeros(3))
    elif kind == "cut":
        whole = case.save(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"worst\.npz"):
        WorstCase.load(path)


def test_what_the_certificate_tells() -> None:
    run = measured_run(corner)
    told, case = run.details["worst_case"], run.worst_case
    assert case is not None
    before, after = case.outputs["logits"][0], case.shifted_outputs["logits"][0]
    assert told["max_logit_change"] == told["in_batch"]["max_logit_change"] == float(np.abs(before - after).max())
    assert told["changes_class"] and not told["bit_identical"]
    assert told["reference"] == {"changes_class": False, "bit_identical": True, "max_logit_change": 0.0}
    assert {row["name"] for row in told["top"]} == set(CLASSES)
    assert [row["logit"] for row in told["top"]] == sorted(before, reverse=True)
    # The normalisation is undone: whole numbers 0..15 are brightness 0..255 in steps of 17.
    pixels = pixels_of(told["picture_png"])
    np.testing.assert_array_equal(pixels, (17 * case.image).astype(np.uint8).transpose(1, 2, 0))
    assert METADATA.preprocessing is not None


def test_where_nothing_changes_there_is_no_picture() -> None:
    run = measured_run(invariant)
    told = run.details["worst_case"]
    assert told["bit_identical"] and told["in_batch"]["bit_identical"] and told["picture_png"] is None
    assert run.worst_case is not None


def test_where_every_image_ties_there_is_no_worst_case() -> None:
    run = measured_run(corner, count=3, tied=np.ones(3, bool))
    assert run.worst_case is None and run.details["worst_case"] is None


def test_a_change_that_needs_a_batch_is_told_apart() -> None:
    def of_the_company(images: Images) -> np.ndarray:
        return corner(images) if len(images) > 1 else invariant(images)

    told = measured_run(of_the_company).details["worst_case"]
    assert told["in_batch"]["changes_class"] and told["bit_identical"]


def test_pictures_come_back_and_damage_is_noticed() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(pixels_of(png_of(pixels)), pixels)
    for damaged in ("", "###", "aGVsbG8=", png_of(pixels)[:40]):
        assert pixels_of(damaged) is None
