from __future__ import annotations

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.shifts import GROUP_LIMIT, shift_set


def test_the_group_is_every_shift_modulo_the_strides() -> None:
    shifts = shift_set("group", height=32, width=32, size_divisor=4)
    assert shifts.offsets == tuple((dy, dx) for dy in range(4) for dx in range(4) if (dy, dx) != (0, 0))
    assert (shifts.name, shifts.seed, shifts.population) == ("group", None, 15)


def test_a_large_group_is_sampled_with_the_seed() -> None:
    first, again, other = (shift_set("group", height=224, width=224, size_divisor=32, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.offsets != other.offsets
    assert len(first) == GROUP_LIMIT == len(set(first.offsets))
    assert all(0 <= dy < 32 and 0 <= dx < 32 for dy, dx in first.offsets)
    assert (first.population, first.seed) == (1023, 1)


def test_all_shifts_of_a_rectangular_map() -> None:
    shifts = shift_set("all", height=6, width=8, size_divisor=2)
    assert len(shifts) == 47
    assert set(shifts.offsets) == {(dy, dx) for dy in range(6) for dx in range(8)} - {(0, 0)}


@pytest.mark.parametrize("spec", [20, "20"])
def test_a_number_is_a_seeded_sample_without_the_identity(spec: int | str) -> None:
    shifts = shift_set(spec, height=32, width=16, size_divisor=4, seed=3)
    assert len(set(shifts.offsets)) == 20
    assert (0, 0) not in shifts.offsets
    assert max(dy for dy, _ in shifts.offsets) > 4  # not only the group
    assert shifts.seed == 3


def test_a_number_beyond_the_population_takes_all() -> None:
    shifts = shift_set(1000, height=4, width=4)
    assert (len(shifts), shifts.name, shifts.seed) == (15, "all", None)


def test_a_trivial_group_becomes_a_sample() -> None:
    shifts = shift_set("group", height=32, width=32, size_divisor=1)
    assert (shifts.name, len(shifts)) == ("sample", GROUP_LIMIT)


def test_sampling_covers_the_map() -> None:
    offsets = np.array(shift_set(200, height=32, width=32, seed=0).offsets)
    assert set(offsets[:, 0]) | set(offsets[:, 1]) == set(range(32))


@pytest.mark.parametrize("spec", ["some", 0, -3, "", True, 2.5])
def test_other_specifications_are_refused(spec: object) -> None:
    with pytest.raises(InputError, match="group, all or a number"):
        shift_set(spec, height=8, width=8)  # type: ignore[arg-type]


def test_a_map_of_one_pixel_has_no_shift() -> None:
    with pytest.raises(InputError, match="no shift"):
        shift_set("all", height=1, width=1)


def test_a_set_goes_through_unchanged_and_to_json() -> None:
    shifts = shift_set(2, height=4, width=4, seed=5)
    assert shift_set(shifts, height=9, width=9) is shifts
    document = shifts.to_dict()
    assert document["offsets"] == [list(offset) for offset in shifts.offsets]
    assert "seed 5" in shifts.describe()


@pytest.mark.parametrize(("spec", "count"), [("group", 15), ("all", 47), (20, 20), (1000, 47)])
def test_multiples_of_a_step(spec: str | int, count: int) -> None:
    found = shift_set(spec, height=12, width=16, size_divisor=8, step=2)
    assert len(found) == len(set(found.offsets)) == count
    assert (0, 0) not in found.offsets
    assert all(dy % 2 == dx % 2 == 0 and dy < 12 and dx < 16 for dy, dx in found.offsets)
    assert "multiples of 2 pixels only" in found.describe()
    assert found.to_dict()["step"] == 2
    every = shift_set("all", height=12, width=16)
    even = {(dy, dx) for dy, dx in every.offsets if dy % 2 == dx % 2 == 0}
    assert set(found.offsets) <= even
    assert spec != "all" or set(found.offsets) == even


def test_without_a_step_nothing_is_said_of_one() -> None:
    assert "multiples" not in shift_set("group", height=8, width=8, size_divisor=4).describe()
    with pytest.raises(InputError, match="no shift"):
        shift_set("all", height=2, width=2, step=2)
