from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.selection import (
    ERROR_HEADROOM,
    SelectionAgreement,
    compare_selections,
    margin_histogram,
    relative_gaps,
)

# One layer, six images: the scores of the reference. Image 3 ties exactly, image 4 nearly does.
SCORES = np.array([
    [1.0, 0.5, 0.2, 0.1],
    [0.3, 1.0, 0.6, 0.2],
    [0.4, 0.5, 1.0, 0.3],
    [1.0, 1.0, 0.2, 0.1],
    [1.0, 1.0 - 1e-6, 0.2, 0.1],
    [0.1, 0.2, 0.3, 1.0],
])  # fmt: skip
CHOICE = np.array([0, 1, 2, 0, 0, 3])[:, None]


def _margins(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    ranked = np.sort(scores, axis=-1)
    return (ranked[..., -1] - ranked[..., -2]) / ranked[..., -1]


def _compare(
    indices: list[int], *, error: float | None = 1e-5, cap: float = 1e-4, scores: npt.NDArray[np.float64] = SCORES
) -> SelectionAgreement:
    file_scores = None
    if error is not None:
        measured = scores.copy()
        measured[0, 1] += error  # one score of an agreeing image is off by this
        file_scores = (measured,)
    return compare_selections(
        ("layer2.0",),
        np.array(indices)[:, None],
        CHOICE,
        scores[:, None, :],
        _margins(scores)[:, None],
        file_scores=file_scores,
        cap=cap,
    )


def _counts(agreement: SelectionAgreement) -> dict[str, int]:
    names = ("agreed", "explained", "unexplained", "tied", "at_risk")
    return {name: agreement.total(name) for name in names}


def test_full_agreement_counts_ties_apart_and_near_ties_at_risk() -> None:
    counts = _counts(_compare([0, 1, 2, 0, 0, 3]))
    assert counts == {"agreed": 5, "explained": 0, "unexplained": 0, "tied": 1, "at_risk": 1}


def test_a_tie_is_never_right_or_wrong() -> None:
    for index in range(4):
        counts = _counts(_compare([0, 1, 2, index, 0, 3]))
        assert (counts["agreed"], counts["unexplained"], counts["tied"]) == (5, 0, 1)


def test_a_near_tie_is_explained_by_the_measured_error_only() -> None:
    assert _counts(_compare([0, 1, 2, 0, 1, 3], error=1e-5))["explained"] == 1
    assert _counts(_compare([0, 1, 2, 0, 1, 3], error=1e-8))["unexplained"] == 1
    assert _counts(_compare([0, 1, 2, 0, 1, 3], error=None))["unexplained"] == 1


def test_the_cap_bounds_what_a_large_error_excuses() -> None:
    wrong = [1, 1, 2, 0, 0, 3]  # image 0 has a margin of one half
    assert _counts(_compare(wrong, error=None))["unexplained"] == 1
    scores = SCORES.copy()
    agreement = compare_selections(
        ("layer2.0",),
        np.array(wrong)[:, None],
        CHOICE,
        scores[:, None, :],
        _margins(scores)[:, None],
        file_scores=(np.abs(scores - 0.6),),
        cap=1e-4,
    )
    assert agreement.layers[0].tolerance == 1e-4
    assert agreement.total("unexplained") == 1


def test_a_wrong_choice_does_not_prove_its_own_excuse() -> None:
    # The file's scores are exact but for the image it gets wrong: that image's error does not enter the tolerance.
    measured = SCORES.copy()
    measured[1] = measured[1, ::-1]
    agreement = compare_selections(
        ("layer2.0",),
        np.array([0, 2, 2, 0, 0, 3])[:, None],
        CHOICE,
        SCORES[:, None, :],
        _margins(SCORES)[:, None],
        file_scores=(measured,),
        cap=1.0,
    )
    assert agreement.layers[0].measured_error == 0
    assert agreement.total("unexplained") == 1


def test_the_measured_error_is_that_of_the_gaps() -> None:
    layer = _compare([0, 1, 2, 0, 0, 3], error=1e-5).layers[0]
    assert layer.measured_error is not None
    np.testing.assert_allclose(layer.measured_error, 1e-5, rtol=1e-6)
    np.testing.assert_allclose(layer.tolerance, ERROR_HEADROOM * 1e-5, rtol=1e-6)
    np.testing.assert_allclose(layer.smallest_margin, 1e-6, rtol=1e-6)


def _compare_ties(file_scores: npt.NDArray[np.float64], *, cap: float) -> SelectionAgreement:
    """Images 0 and 1 have margins of one half and two fifths, image 4 one of 1e-6."""
    indices = np.array([0, 1, 2, 0, 0, 3])[:, None]
    margins = _margins(SCORES)[:, None]
    scores = SCORES[:, None, :]
    return compare_selections(("layer2.0",), indices, CHOICE, scores, margins, file_scores=(file_scores,), cap=cap)


def test_close_components_that_the_file_rounds_to_one_number_are_ties_of_the_file() -> None:
    rounded = np.round(SCORES, 3)
    agreement = _compare_ties(rounded, cap=1e-4)
    assert agreement.total("tied_in_file") == 1
    assert agreement.total("tied") == 1  # the reference's own
    assert agreement.total("agreed") == 5
    np.testing.assert_array_equal(agreement.tied_images, [False, False, False, True, True, False])
    assert agreement.to_dict()["layers"][0]["tied_in_file"] == 1


def test_a_file_whose_scores_all_tie_has_earned_no_exemption() -> None:
    agreement = _compare_ties(np.ones_like(SCORES), cap=1e-4)
    np.testing.assert_array_equal(agreement.tied_images, [False, False, False, True, True, False])
    assert agreement.total("tied_in_file") == 1


def test_the_file_ties_only_where_the_chosen_component_does() -> None:
    others = SCORES.copy()
    others[0, 1:] = 0.2  # two of those not chosen
    assert _compare_ties(others, cap=1.0).total("tied_in_file") == 0


def test_scores_in_another_unit_have_no_error() -> None:
    agreement = compare_selections(
        ("layer2.0",),
        np.array([0, 1, 2, 0, 0, 3])[:, None],
        CHOICE,
        SCORES[:, None, :],
        _margins(SCORES)[:, None],
        file_scores=(SCORES * 2.0**38,),
        cap=1e-4,
    )
    assert agreement.layers[0].measured_error == 0
    assert agreement.total("at_risk") == 0


def test_gaps_are_relative_to_the_larger_of_the_two() -> None:
    scores = np.array([[0.5, 0.25, 1.0, 0.75]])
    np.testing.assert_allclose(relative_gaps(scores, np.array([1])), [[0.5, 0, 0.75, 2 / 3]])
    np.testing.assert_allclose(relative_gaps(scores, np.array([2])), [[0.5, 0.75, 0, 0.25]])
    np.testing.assert_array_equal(relative_gaps(np.zeros((1, 3)), np.array([0])), [[0, 0, 0]])


def test_scores_that_are_not_finite_count_as_tied() -> None:
    margins = np.array([[np.nan], [0.5]])
    agreement = compare_selections(
        ("layer",),
        np.array([[0], [0]]),
        np.array([[0], [0]]),
        np.array([[[np.nan, 1.0]], [[1.0, 0.5]]]),
        margins,
        file_scores=None,
        cap=1e-4,
    )
    assert (agreement.total("agreed"), agreement.total("tied")) == (1, 1)
    np.testing.assert_array_equal(agreement.tied_images, [True, False])


def test_the_histogram_counts_every_margin_once() -> None:
    histogram = margin_histogram(np.array([[0.0, 2e-4], [5e-2, 9e-4], [1.5e-1, 1e-3]]))
    assert histogram == {"0": 1, "1e-4": 2, "1e-3": 1, "1e-2": 1, "1e-1": 1}
    assert margin_histogram(np.zeros((2, 2))) == {"0": 4}
