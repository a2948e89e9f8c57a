import itertools
import math
import warnings

import numpy as np
import pytest

import lexirobust as lr
from lexirobust.evaluation import Order

MAGNITUDES = np.array([0.0, 1.0, 2.0])


def curve(correct, valid=None, magnitudes=MAGNITUDES, data=None):
    correct = np.asarray(correct, bool)
    zeros = np.zeros(correct.shape)
    valid = np.ones_like(correct) if valid is None else valid
    settings = {} if data is None else {"data": data}
    return lr.AccuracyCurve(magnitudes, correct, zeros, zeros, zeros == 0, valid, settings=settings)


def random_curves(count, samples=12, seed=0):
    """Few samples, so that ties are common."""
    rng = np.random.default_rng(seed)
    share = np.array([[0.9], [0.6], [0.5]])
    return [curve(rng.uniform(size=(3, samples)) < share) for _ in range(count)]


def exact_mcnemar(only_first, only_second):
    """Two-sided, from the binomial coefficients themselves."""
    count = only_first + only_second
    tail = sum(math.comb(count, k) for k in range(min(only_first, only_second) + 1)) / 2**count
    return min(1.0, 2 * tail)


def test_strict_order_is_a_total_preorder():
    curves = random_curves(9)
    order = {
        (a, b): lr.compare(curves[a], curves[b]).order
        for a, b in itertools.product(range(9), repeat=2)
    }
    assert {-1, 0, 1} == {order[pair] for pair in order if pair[0] != pair[1]} | {0}
    for a, b in order:
        assert order[a, b] == -order[b, a]
        assert order[a, a] == 0
    for a, b, c in itertools.product(range(9), repeat=3):
        if order[a, b] >= 0 and order[b, c] >= 0:
            assert order[a, c] >= 0
            assert order[a, c] == max(order[a, b], order[b, c])


def test_strict_order_is_that_of_the_accuracies_as_tuples():
    curves = random_curves(12, seed=1)
    for first, second in itertools.combinations(curves, 2):
        one, other = (each.accuracy.tolist() for each in (first, second))
        assert lr.compare(first, second).order == (one > other) - (one < other)


def test_the_smallest_magnitude_decides_however_they_are_sorted():
    rows = np.arange(10) < np.array([[9], [5], [2]]), np.arange(10) < np.array([[9], [4], [8]])
    for order in ([0, 1, 2], [2, 0, 1]):
        first, second = (curve(row[order], magnitudes=MAGNITUDES[order]) for row in rows)
        assert lr.compare(first, second).at == 1.0
        assert lr.compare(first, second).order == 1


def test_a_difference_within_the_tolerance_decides_nothing():
    first = curve(np.arange(100) < np.array([[91], [50], [10]]))
    second = curve(np.arange(100) < np.array([[90], [60], [10]]))
    assert lr.compare(first, second) == Order(1, 0.0, 1.0)
    assert lr.compare(first, second, tolerance=0.05).order == -1
    assert lr.compare(first, second, tolerance=0.05).at == 1.0
    assert lr.compare(first, second, tolerance=0.2).order == 0
    assert lr.compare(first, second, tolerance=0.2).at is None


@pytest.mark.parametrize("percent", [40, 80])
def test_a_difference_of_the_tolerance_is_a_tie_however_it_is_rounded(percent):
    first, second = (
        curve(np.arange(100) < np.full((3, 1), right)) for right in (percent, percent - 10)
    )
    assert lr.compare(first, second, tolerance=0.1).order == 0
    assert lr.compare(first, second, tolerance=0.099).order == 1


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (9, 1), (5, 5), (30, 12)])
def test_p_values_are_exact_and_corrected_for_their_number(only_first, only_second):
    first, second = np.zeros((2, 3, 60), bool)
    first[0, :only_first] = True
    second[0, only_first : only_first + only_second] = True
    first[1, :8] = True  # p = 2^-7, whose correction is for two or three, by its rank.
    p, other = exact_mcnemar(only_first, only_second), 2.0**-7
    order = lr.compare(curve(first), curve(second))
    if only_first == only_second:
        assert order.at == 1.0
        assert order.p_value == pytest.approx(3 * other)
    else:
        ascending = sorted([p, other, 1.0])
        holm = np.minimum(1, np.maximum.accumulate(np.array(ascending) * [3, 2, 1]))
        assert order.p_value == pytest.approx(holm[ascending.index(p)])


def test_chance_at_the_first_magnitude_does_not_decide_where_significance_is_asked():
    first = np.zeros((3, 400), bool)
    second = np.zeros((3, 400), bool)
    first[0, :201], second[0, 199:399] = True, True  # One sample more, of 400 that differ.
    second[1, :40] = True
    assert lr.compare(curve(first), curve(second)).order == 1
    order = lr.compare(curve(first), curve(second), significance=0.05)
    assert (order.order, order.at) == (-1, 1.0)
    assert order.p_value < 1e-9


def test_magnitudes_where_nothing_counts_decide_nothing():
    valid = np.ones((3, 10), bool)
    valid[1] = False
    first = curve(np.arange(10) < np.array([[9], [0], [5]]), valid)
    second = curve(np.arange(10) < np.array([[9], [9], [4]]))
    assert np.isnan(first.accuracy[1])
    assert lr.compare(first, second).at == 2.0
    assert lr.compare(first, second).order == 1


def test_places_follow_the_order_and_are_shared():
    curves = random_curves(10, seed=2)
    places = lr.rank(curves)
    for (a, one), (b, other) in itertools.combinations(enumerate(curves), 2):
        assert np.sign(places[b] - places[a]) == lr.compare(one, other).order
    assert sorted(set(places)) == list(range(1, max(places) + 1))
    assert lr.rank(curves, tolerance=1.0) == [1] * 10


def test_chance_at_the_first_magnitude_gives_no_first_place_where_significance_is_asked():
    """The strict order puts the first ahead by one sample; the second is better by 20 of 40."""
    first = curve(np.arange(40) < np.array([[31], [10], [9]]))
    second = curve(np.arange(40) < np.array([[30], [30], [9]]))
    assert lr.rank([first, second]) == [1, 2]
    assert lr.rank([first, second], significance=0.05) == [2, 1]


@pytest.mark.parametrize("options", [{"tolerance": 0.1}, {"significance": 0.2}])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_has_a_place_behind_one_that_it_is_ahead_of(options, seed):
    curves = random_curves(8, seed=seed)
    places = lr.rank(curves, **options)
    assert sorted(set(places)) == list(range(1, max(places) + 1))
    for (a, one), (b, other) in itertools.combinations(enumerate(curves), 2):
        order = lr.compare(one, other, **options).order
        assert order * (places[b] - places[a]) >= 0


def test_a_circle_shares_a_place():
    """A is ahead of B at 0; B of C and C of A at 1, as they are within the tolerance at 0."""
    counts = [[60, 30], [50, 50], [55, 40]]
    a, b, c = (curve(np.arange(100) < np.array([[n], [m], [0]])) for n, m in counts)
    last = curve(np.zeros((3, 100)))
    options = {"tolerance": 0.07}
    pairs = [(a, b), (b, c), (c, a)]
    assert [lr.compare(*pair, **options).order for pair in pairs] == [1, 1, 1]
    assert lr.rank([last, a, b, c], **options) == [2, 1, 1, 1]


def test_places_do_not_depend_on_how_curves_are_listed():
    curves = random_curves(8, seed=3)
    for options in ({}, {"tolerance": 0.1}, {"significance": 0.2}):
        places = lr.rank(curves, **options)
        for shift in range(1, 8):
            rolled = lr.rank(curves[shift:] + curves[:shift], **options)
            assert rolled == places[shift:] + places[:shift]


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (curve(np.ones((3, 11))), {}, "same samples"),
        (curve(np.ones((3, 10)), magnitudes=MAGNITUDES + 1), {}, "same magnitudes"),
        (curve(np.ones((3, 10)), data="b"), {}, "same order"),
        (curve(np.ones((3, 10))), {"tolerance": -0.1}, "`tolerance`"),
        (curve(np.ones((3, 10))), {"tolerance": None}, "`tolerance` must be a number from 0 to 1"),
        (curve(np.ones((3, 10))), {"significance": "5%"}, "`significance` must be .*'5%'"),
        (curve(np.ones((3, 10))), {"significance": 0.0}, "`significance`"),
    ],
)
def test_bad_arguments_are_refused(other, options, message):
    with pytest.raises(ValueError, match=message):
        lr.compare(curve(np.ones((3, 10)), data="a"), other, **options)


@pytest.mark.parametrize("curves", [[None], {"a": 1, "b": 2}, "ab"])
def test_what_is_no_curve_is_refused(curves):
    with pytest.raises(TypeError, match="Curves must be AccuracyCurves"):
        lr.rank(curves)
    with pytest.raises(TypeError, match="Curves must be AccuracyCurves"):
        lr.compare(curve(np.ones((3, 10))), next(iter(curves)))


def test_no_curves_have_no_places():
    with pytest.raises(ValueError, match="`curves` must be at least one"):
        lr.rank([])


def test_curves_of_different_attacks_are_warned_of():
    x, y = lr.datasets.toy(20, seed=0)
    classifier = lr.datasets.toy_classifier("f3")

    def measured(*attacks):
        return lr.evaluate_robustness(classifier, x, y, attacks, [0, 1], checks=False)

    def pgd(**settings):
        return lr.attacks.PGD("l2", steps=1, bounds=None, **settings)

    square = lr.attacks.Square("l2", max_queries=2, bounds=None)
    one, other = measured(pgd(seed=0), square), measured(square, pgd(seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lr.compare(one, other)
    for weaker in (measured(square), measured(pgd(restarts=2), square)):
        with pytest.warns(UserWarning, match="of different attacks"):
            lr.compare(one, weaker)
