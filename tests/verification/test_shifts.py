from __future__ import annotations

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.shifts import DEFAULT_BUDGET, GROUP_LIMIT, shift_set


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


def test_all_shifts_stay_within_the_default_budget() -> None:
    whole = shift_set("all", height=32, width=32, num_images=256)
    assert (len(whole), whole.seed, whole.budget) == (1023, None, DEFAULT_BUDGET)
    part = shift_set("all", height=224, width=224, num_images=512, seed=3)
    assert (len(part), part.name, part.population, part.seed) == (512, "all", 50_175, 3)
    assert part.describe() == "512 of 50175 shifts (all of 224x224, seed 3, within a budget of 262144 pairs)"
    assert part.to_dict()["budget"] == DEFAULT_BUDGET
    assert len(shift_set("all", height=32, width=32, num_images=10**6)) == 1


@pytest.mark.parametrize(("spec", "count"), [("all", 5), ("group", 5), (20, 5), (4, 4)])
def test_a_budget_holds_for_every_specification(spec: str | int, count: int) -> None:
    found = shift_set(spec, height=16, width=16, size_divisor=4, budget=59, num_images=10)
    assert len(found) == count
    again = shift_set(spec, height=16, width=16, size_divisor=4, budget=59, num_images=10)
    other = shift_set(spec, height=16, width=16, size_divisor=4, budget=59, num_images=10, seed=1)
    assert found == again != other
    assert found.budget == 59


def test_without_a_budget_only_all_has_one() -> None:
    assert shift_set("group", height=32, width=32, size_divisor=4, num_images=10**6).budget is None
    assert len(shift_set(64, height=32, width=32, num_images=10**6)) == 64


@pytest.mark.parametrize("budget", [0, -1, 9, True, 2.5])
def test_a_budget_below_one_shift_per_image_is_refused(budget: object) -> None:
    with pytest.raises(InputError, match=r"does not reach for one shift of 10 images; give at least 10"):
        shift_set("all", height=8, width=8, budget=budget, num_images=10)  # type: ignore[arg-type]
