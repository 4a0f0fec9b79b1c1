"""tg.allocate: the best choice there is, within the budgets, whatever the scale; and a bound that holds."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import _knapsack

ROUNDING = 1e-13


def brute(curves, budgets):
    """The least score of all choices within the budgets, inf where there is none."""
    best = math.inf
    for choice in itertools.product(*curves):
        score, *costs = (math.fsum(column) for column in zip(*choice, strict=True))
        if all(cost <= budget * (1 + ROUNDING) for cost, budget in zip(costs, budgets, strict=True)):
            best = min(best, score)
    return best


def layers(rng, count, points, budgets=1):
    """Curves like those of layers: sizes over two orders, errors that fall with them, costs that nearly go along."""
    for _ in range(count):
        share = np.sort(rng.uniform(0.02, 1, points))
        costs = 10 ** rng.uniform(3, 5) * share[:, None] * rng.uniform(0.7, 1.3, (points, budgets))
        scores = 10 ** rng.uniform(-3, 0) * np.exp(-3 * share) * rng.uniform(0.9, 1.1, points)
        yield np.column_stack([scores, np.round(costs)])


def quarter(curves):
    return 0.25 * np.sum([curve[:, 1:].max(axis=0) for curve in curves], axis=0)


@st.composite
def problems(draw):
    """Up to four curves of four points, many ties, one to three budgets, of any scale."""
    budgets, scale, unit = (
        draw(st.integers(1, 3)),
        2.0 ** draw(st.integers(-490, 490)),
        10.0 ** draw(st.integers(-9, 9)),
    )
    value = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 2.0, 7.0]) | st.floats(0, 10)
    score = value | st.just(math.inf) | st.floats(-3, 0)
    point = st.tuples(score.map(lambda s: s * scale), *[value.map(lambda c: c * unit)] * budgets)
    curves = draw(st.lists(st.lists(point, min_size=1, max_size=4), min_size=1, max_size=4))
    limit = value.map(lambda c: 2 * c * unit) | st.just(math.inf)
    return curves, tuple(draw(limit) for _ in range(budgets)), scale


@given(problems())
def test_the_best_choice_there_is(problem):
    curves, budgets, scale = problem
    if any(all(math.isinf(score) for score, *_ in curve) for curve in curves):
        with pytest.raises(ValueError, match="none of a finite score"):
            tg.allocate(curves, budgets)
        return
    best = brute(curves, budgets)
    if math.isinf(best):
        with pytest.raises(tg.BudgetError) as caught:
            tg.allocate(curves, budgets)
        found = caught.value.closest
        assert any(cost > budget for cost, budget in zip(found.costs, budgets, strict=True))
        assert found.bound == -math.inf
    else:
        found = tg.allocate(curves, budgets)
        # Scores are compared up to 1e-12 of the largest range of a curve, which is at most 13 here.
        assert found.score - best <= 2e-11 * scale
        assert found.score == pytest.approx(found.bound, abs=2e-11 * scale)
        assert all(cost <= budget * (1 + ROUNDING) for cost, budget in zip(found.costs, budgets, strict=True))
    taken = [curve[choice] for curve, choice in zip(curves, found.choices, strict=True)]
    assert (found.score, *found.costs) == tuple(math.fsum(column) for column in zip(*taken, strict=True))
    for curve, (score, *costs), place in zip(curves, taken, found.choices, strict=True):
        beaten = [k for k, other in enumerate(curve) if all(np.array(other) <= (score, *costs))]
        assert all(curve[k] == (score, *costs) for k in beaten), "a point that another one beats"
        assert min(beaten) == place, "of equal points the first"


@given(problems())
def test_the_integer_program_by_which_the_rest_is_proven(problem):
    """With room for one partial choice only, nearly everything is left to it; it is exact to 1e-6 of a range."""
    curves, budgets, scale = problem
    curves = [[point for point in curve if math.isfinite(point[0])] for curve in curves]
    if not all(curves) or math.isinf(best := brute(curves, budgets)):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_knapsack, "_WIDTHS", (1,))
        found = tg.allocate(curves, budgets)
    assert best - 2e-11 * scale <= found.score <= best + 2e-5 * scale
    assert found.score - 2e-5 * scale <= found.bound <= best + 2e-11 * scale
    assert all(cost <= budget * (1 + ROUNDING) for cost, budget in zip(found.costs, budgets, strict=True))


def by_table(curves, budget):
    """The least score with costs that are whole numbers, by one table over all of them."""
    least = np.zeros(budget + 1)
    for curve in curves:
        ways = np.full((len(curve), budget + 1), np.inf)
        for row, (score, cost) in zip(ways, curve, strict=True):
            if cost <= budget:
                row[int(cost) :] = least[: budget + 1 - int(cost)] + score
        least = ways.min(axis=0)
    return least[-1]


@pytest.mark.parametrize("seed", range(4))
def test_many_curves_with_one_budget_are_proven(seed):
    curves = list(layers(np.random.default_rng(seed), 54, 30))
    curves = [np.column_stack([curve[:, 0], np.ceil(curve[:, 1] / 100)]) for curve in curves]
    budget = int(quarter(curves)[0])
    found = tg.allocate(curves, budget)
    assert found.score == pytest.approx(by_table(curves, budget), rel=1e-12)
    assert found.score == pytest.approx(found.bound, rel=1e-14)
    assert found.costs[0] <= budget


@pytest.mark.parametrize("budgets", [2, 3])
def test_many_curves_with_several_budgets(budgets):
    """Proven; and no exchange of two points improves it."""
    curves = list(layers(np.random.default_rng(5), 54, 30, budgets))
    limits = quarter(curves)
    found = tg.allocate(curves, limits)
    assert found.score - found.bound <= 1e-8 * max(np.ptp(curve[:, 0]) for curve in curves)
    assert (np.array(found.costs) <= limits).all()
    chosen = [curve[pick] for curve, pick in zip(curves, found.choices, strict=True)]
    total = np.sum(chosen, axis=0)
    for (a, old), (b, other) in itertools.combinations(zip(curves, chosen, strict=True), 2):
        swapped = total + (a - old)[:, None] + (b - other)
        allowed = (swapped[..., 1:] <= limits).all(axis=-1)
        assert (swapped[..., 0][allowed] >= found.score - 1e-9).all()


@pytest.mark.parametrize(("scores", "costs"), [(1e-150, 1e150), (1e150, 1e-150), (1e-12, 1), (1e12, 1)])
def test_scales_do_not_matter(scores, costs):
    curves = list(layers(np.random.default_rng(1), 12, 10, 2))
    limits, scale = quarter(curves), np.array([scores, costs, costs])
    found, scaled = tg.allocate(curves, limits), tg.allocate([curve * scale for curve in curves], limits * costs)
    assert scaled.choices == found.choices
    assert scaled.score == pytest.approx(found.score * scores, rel=1e-12)
    # And each cost by itself.
    mixed = tg.allocate([curve * [1, 1, costs] for curve in curves], limits * [1, costs])
    assert mixed.choices == found.choices


def test_budgets_are_kept_to_the_last_whole_number():
    curves = [[(3.0 * k, 2**40 - k) for k in range(5)] for _ in range(4)]
    for allowed in range(-16, 1):
        assert tg.allocate(curves, 4 * 2**40 + allowed).score == -3.0 * allowed


def test_the_same_each_time_and_points_in_any_order(rng):
    curves = list(layers(rng, 10, 12, 2))
    found = tg.allocate(curves, quarter(curves))
    assert tg.allocate(curves, quarter(curves)) == found
    orders = [rng.permutation(len(curve)) for curve in curves]
    again = tg.allocate([curve[order] for curve, order in zip(curves, orders, strict=True)], quarter(curves))
    assert tuple(int(order[k]) for order, k in zip(orders, again.choices, strict=True)) == found.choices


def test_curves_as_lists_arrays_and_mappings(xp):
    curves = [np.array([[0.9, 10.0, 1.0], [0.3, 40.0, 1.5], [0.0, 90.0, 2.0]])] * 2
    expected = tg.allocate(curves, (100, 3.0))
    assert expected.choices == (1, 1)
    assert tg.allocate([xp.asarray(curve) for curve in curves], (100, 3.0)) == expected
    nested = [[(score, tuple(costs)) for score, *costs in curve.tolist()] for curve in curves]
    assert tg.allocate(iter(nested), np.array([100, 3])) == expected
    named = tg.allocate({"conv1": nested[0], 7: curves[1]}, [100, 3])
    assert named == dataclasses.replace(expected, choices={"conv1": 1, 7: 1})
    with pytest.raises(AttributeError):
        named.score = 0.0


def test_what_costs_nothing_is_free_and_inf_bounds_nothing():
    curves = [[(1.0, (0, 5)), (0.5, (1, 5))], [(1.0, (0, 9)), (0.2, (0, 90))]]
    assert tg.allocate(curves, (0, 100)).choices == (0, 1)
    assert tg.allocate(curves, (math.inf, math.inf)).choices == (1, 1)
    assert tg.allocate([[(2.0, 0)]], 0) == tg.Allocation((0,), 2.0, (0.0,), 2.0)


def test_budgets_that_cannot_be_met_say_how_far_the_cheapest_choice_gets():
    curves = [[(1.0, (10, 30)), (0.5, (30, 10)), (math.inf, (0, 0))], [(1.0, (10, 30)), (0.5, (30, 10))]]
    with pytest.raises(ValueError, match=r"budget of 15, 100, but the cheapest choice costs 20, 60"):
        tg.allocate(curves, (15, 100))
    with pytest.raises(tg.BudgetError, match="closest") as caught:
        tg.allocate(curves, (35, 35))  # each by itself could be met
    assert caught.value.closest.costs in ((20.0, 60.0), (40.0, 40.0), (60.0, 20.0))
    with pytest.raises(tg.BudgetError, match="costs 10, 30"):
        tg.allocate(curves[:1], (0, 100))


@pytest.mark.parametrize(
    ("curves", "budget", "error", "message"),
    [
        ([], 1, ValueError, "no curves"),
        ({}, 1, ValueError, "no curves"),
        (3, 1, TypeError, "curves=3"),
        ("ab", 1, TypeError, "'ab'"),
        ([[]], 1, ValueError, "0 points.*curve 0"),
        ({"conv": [(math.inf, 1)]}, 1, ValueError, "1 points, none of a finite score.*'conv'"),
        ({"conv": [(math.nan, 1)]}, 1, ValueError, "nan.*'conv'"),
        ([[(-math.inf, 1)]], 1, ValueError, "-inf.*a number or inf"),
        ([[(1, -1)]], 1, ValueError, r"-1\.0.*not negative"),
        ([[(1, math.nan)]], 1, ValueError, "nan.*not negative"),
        ([[(1, math.inf)]], 1, ValueError, "inf.*finite"),
        ([[(1, 2)], [(1, 2, 3)]], 1, ValueError, "2 costs.*1 budgets.*curve 1"),
        ([[(1, 2)]], (1, 2), ValueError, r"1 costs.*2 budgets.*\(score, \(2 costs\)\)"),
        ([[(1,)]], 1, ValueError, "0 costs"),
        ([(1, 2)], 1, TypeError, "curve 0"),
        ([[("a", 2)]], 1, TypeError, "curve 0"),
        ([[1j, 2]], 1, TypeError, "curve 0"),
        ([[(1, 2)]], -1, ValueError, "budget=-1"),
        ([[(1, 2)]], math.nan, ValueError, "budget=nan"),
        ([[(1, 2)]], (), ValueError, r"budget=\(\)"),
        ([[(1, 2)]], [[1]], ValueError, "budget"),
        ([[(1, 2)]], None, ValueError, "budget=None"),
        ([[(1, 2)]], "x", TypeError, "budget='x'"),
    ],
)
def test_bad_requests(curves, budget, error, message):
    with pytest.raises(error, match=message):
        tg.allocate(curves, budget)
