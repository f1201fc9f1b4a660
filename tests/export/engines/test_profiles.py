"""Ranges of shapes, as the command line writes them."""

from __future__ import annotations

import pytest

from aps_deploy.errors import InputError
from aps_deploy.export.engines.profiles import Profile, check_sizes, parse_profile, profiles_from

NO_NUMBERS = {"min_batch": None, "opt_batch": None, "max_batch": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:8:16", Profile((1, 8, 16))),
        ("4", Profile((4, 4, 4))),
        ("1:8:16@192:224:256", Profile((1, 8, 16), ((192, 192), (224, 224), (256, 256)))),
        ("2@64x32:64x64:128x64", Profile((2, 2, 2), ((64, 32), (64, 64), (128, 64)))),
    ],
)
def test_a_profile_is_read(text: str, expected: Profile) -> None:
    assert parse_profile(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1:2", "1:2:3:4", "a:b:c", "1:8:16@", "1:8:16@32:64", "-1:1:1", "1.5", "1:8:16@32x", "1@2@3"]
)
def test_what_is_no_profile_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"is no profile; write MIN:OPT:MAX.*1:8:16"):
        parse_profile(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [("8:1:16", "8 to 16 images"), ("0:1:1", "images"), ("1:1:99999999", "images"), ("1@64:32:64", "64 to 64 pixels")],
)
def test_numbers_out_of_order_are_refused(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        parse_profile(text)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((None, None, None), (1, 8, 16)),
        ((None, None, 4), (1, 4, 4)),
        ((None, None, 64), (1, 8, 64)),
        ((32, None, None), (32, 32, 32)),
        ((None, 24, None), (1, 24, 24)),
        ((2, 3, 5), (2, 3, 5)),
    ],
)
def test_numbers_left_out_keep_to_those_given(numbers: tuple[int | None, ...], expected: tuple[int, int, int]) -> None:
    low, best, high = numbers
    assert profiles_from([], min_batch=low, opt_batch=best, max_batch=high) == (Profile(expected),)


def test_several_profiles_and_the_same_one_twice() -> None:
    assert profiles_from(["1", "8:16:32", "1"], **NO_NUMBERS) == (Profile((1, 1, 1)), Profile((8, 16, 32)))


def test_both_ways_at_once_are_refused() -> None:
    with pytest.raises(InputError, match="say the same"):
        profiles_from(["1"], min_batch=None, opt_batch=None, max_batch=4)


def test_shapes_of_a_file_with_one_size_and_of_one_with_many() -> None:
    assert Profile((1, 2, 4)).shapes(3, (8, 6)) == ((1, 3, 8, 6), (2, 3, 8, 6), (4, 3, 8, 6))
    sizes = parse_profile("1:2:4@8:12x16:32")
    assert sizes.shapes(3, None) == ((1, 3, 8, 8), (2, 3, 12, 16), (4, 3, 32, 32))


@pytest.mark.parametrize(
    ("text", "fixed", "words"),
    [
        ("1@32", (16, 16), "the file's only one, 16x16"),
        ("1", None, "dynamic and the profile gives no range"),
        ("1@8:10:16", None, "side of 10 pixels, and the network takes multiples of 4; use 8 or 12"),
        ("1@2:8:16", None, "side of 2 pixels, and the network takes multiples of 4; use 4 or 4"),
    ],
)
def test_sizes_that_do_not_fit_the_file(text: str, fixed: tuple[int, int] | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_sizes([parse_profile(text)], fixed=fixed, divisor=4)


def test_sizes_that_fit() -> None:
    check_sizes([parse_profile("1"), parse_profile("1:2:4@16")], fixed=(16, 16), divisor=4)
    check_sizes([parse_profile("1:2:4@8:12:16x20")], fixed=None, divisor=4)
