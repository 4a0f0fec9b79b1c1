"""cp_lm: its equations against explicit Jacobians, its digits, and what it does where no best approximation exists."""

import itertools
import math

import numpy as np
import pytest

import tensorring as tg
from tensorring._array import eps, to_host
from tensorring.decompose.iterative._cp import lm_step
from tensorring.decompose.iterative._cp.lm_arc import _bend
from tensorring.decompose.iterative._cp.lm_residual import Residual
from tensorring.decompose.iterative._cp.lm_step import Curvature
from tensorring.decompose.iterative.cp_lm import cp_lm
from tensorring.linalg.rank import error_floor
from tensorring.testing import check_refusals, check_result

WIDE = ("float64", "complex128")
SHAPES = [(7, 6), (3, 5, 4), (2, 3, 4, 3), (2, 3, 2, 3, 2)]


def dense(factors):
    return tg.CPTensor(np.ones(factors[0].shape[1]), factors).to_dense()


def draw(shape, rank, dtype, seed=0):
    return list(tg.random.cp(shape, rank=rank, dtype=dtype, rng=seed).factors)


def noisy(shape, rank, dtype, seed=0, share=0.1):
    """A CP tensor with 10 % noise: a missing conjugate does not show without."""
    x = tg.random.cp(shape, rank=rank, dtype=dtype, rng=seed).to_dense()
    noise = tg.random.tucker(shape, ranks=shape, dtype=dtype, rng=seed + 1000).to_dense()
    return x + share * np.linalg.norm(x) / np.linalg.norm(noise) * noise


def jacobian(factors):
    """∂x̂/∂U column by column, by differences that are exact: the model is linear in each factor."""
    columns = []
    for n, factor in enumerate(factors):
        for i, r in itertools.product(*map(range, factor.shape)):
            unit = np.zeros_like(factor)
            unit[i, r] = 1.0
            columns.append(dense([*factors[:n], unit, *factors[n + 1 :]]).reshape(-1))
    return np.array(columns).T


def flat(blocks):
    return np.concatenate([block.reshape(-1) for block in blocks])


# The equations.


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", [(5,), *SHAPES])
def test_descent_is_the_adjoint_jacobian_times_the_residual(shape, dtype):
    factors, x = draw(shape, 3, dtype), noisy(shape, 3, dtype, seed=1)
    squared, descent = Residual(x)(factors)
    residual = (x - dense(factors)).reshape(-1)
    assert squared == pytest.approx(np.linalg.norm(residual) ** 2, rel=1e-13)
    np.testing.assert_allclose(flat(descent), jacobian(factors).conj().T @ residual, rtol=1e-12, atol=1e-12)


def test_descent_is_the_gradient_by_differences():
    """An independent route: the derivative of ½‖E‖² along real and imaginary directions."""
    factors, x, h = draw((3, 4, 2), 2, "complex128"), noisy((3, 4, 2), 2, "complex128", seed=1), 1e-6
    _, descent = Residual(x)(factors)
    for n, direction in itertools.product(range(3), (1.0, 1j)):
        moved = [[u + sign * h * direction if m == n else u for m, u in enumerate(factors)] for sign in (1, -1)]
        up, down = (np.linalg.norm(x - dense(u)) ** 2 / 2 for u in moved)
        slope = -np.sum(np.conj(descent[n]) * direction).real
        assert (up - down) / (2 * h) == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("shape", [(7, 5, 6), (20, 2, 3), (2, 3, 2, 2), (9,)])
def test_blocks_of_the_residual_add_up(monkeypatch, gaussian, shape):
    x, factors = gaussian(shape, "complex128"), draw(shape, 3, "complex128")
    whole = Residual(x)(factors)
    monkeypatch.setattr("tensorring.decompose.iterative._cp.lm_residual.block_length", lambda *_: 2)
    parts = Residual(x)(factors)
    assert parts[0] == pytest.approx(whole[0], rel=1e-13)
    np.testing.assert_allclose(flat(parts[1]), flat(whole[1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("delicate", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_solve_the_damped_system_of_the_explicit_jacobian(shape, dtype, delicate):
    """Modes longer than the rank, shorter ones, and both at once."""
    for rank in (2, 4):
        factors, damping = draw(shape, rank, dtype), 0.3
        curvature, j = Curvature(factors, delicate=delicate), jacobian(factors)
        right = draw(shape, rank, dtype, seed=5)
        step = curvature.solver(damping, 0.0)(right)
        expected = np.linalg.solve(j.conj().T @ j + damping * np.eye(j.shape[1]), flat(right))
        np.testing.assert_allclose(flat(step), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", WIDE)
def test_the_matrix_its_product_and_its_jacobian_agree(dtype):
    factors = draw((3, 2, 4), 5, dtype)
    curvature, v = Curvature(factors), draw((3, 2, 4), 5, dtype, seed=7)
    np.testing.assert_allclose(curvature.jacobian, jacobian(factors), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(curvature.matrix, curvature.jacobian.conj().T @ curvature.jacobian, atol=1e-13)
    np.testing.assert_allclose(
        flat(curvature.product(v, 0.5)), (curvature.matrix @ flat(v)) + 0.5 * flat(v), atol=1e-13
    )


@pytest.mark.parametrize("dtype", WIDE)
def test_conjugate_gradients_give_the_step_of_cholesky(monkeypatch, dtype):
    factors, right = draw((6, 3, 4), 4, dtype), draw((6, 3, 4), 4, dtype, seed=3)
    direct = Curvature(factors).solver(0.1, 0.0)(right)
    monkeypatch.setattr(lm_step, "SMALL", 0)
    fallen_back = Curvature(factors).solver(0.1, 0.0)(right)
    np.testing.assert_allclose(flat(fallen_back), flat(direct), rtol=1e-13)
    monkeypatch.setattr(lm_step, "DENSE", 0)
    iterated = Curvature(factors).solver(0.1, 1e-14)(right)
    np.testing.assert_allclose(flat(iterated), flat(direct), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", WIDE)
def test_orders_of_the_arc_are_those_of_the_model(dtype):
    shape, rank = (3, 4, 2), 3
    u, d, e = (draw(shape, rank, dtype, seed=k) for k in range(3))
    grams = [[a.T @ b.conj() for a in parts] for parts, b in zip(zip(u, d, strict=True), u, strict=True)]
    j = jacobian(u)
    pairs = dense([d[0], d[1], u[2]]) + dense([d[0], u[1], d[2]]) + dense([u[0], d[1], d[2]])
    np.testing.assert_allclose(flat(_bend([u, d], grams, 2)), -j.conj().T @ pairs.reshape(-1), atol=1e-12)
    for own, part, b in zip(grams, e, u, strict=True):
        own.append(part.T @ b.conj())
    third = dense(d)
    for m, n in itertools.permutations(range(3), 2):
        third = third + dense([d[k] if k == m else e[k] if k == n else u[k] for k in range(3)])
    np.testing.assert_allclose(flat(_bend([u, d, e], grams, 3)), -j.conj().T @ third.reshape(-1), atol=1e-12)


# What it promises.


@pytest.mark.parametrize("shape", [(9,), *SHAPES, (12, 3, 4), (1, 6, 1, 5)])
def test_exact_tensors_are_found_to_all_digits(xp, dtype, shape):
    x = tg.random.cp(shape, rank=min(2, math.prod(shape) // max(shape)), dtype=dtype, rng=3).to_dense()
    result = cp_lm(xp.asarray(x), rank=2, n_starts=5, rng=0)
    check_result(xp.asarray(x), result, caps=2)
    assert result.error <= error_floor(dtype, x.ndim) / 4 + 4 * eps(dtype)
    assert result.converged


@pytest.mark.parametrize("dtype", WIDE)
def test_convergence_is_faster_than_linear(dtype):
    truth = tg.random.cp((8, 9, 7), rank=4, dtype=dtype, rng=0)
    near = [u + 0.05 * v for u, v in zip(truth.factors, draw(truth.shape, 4, dtype, seed=8), strict=True)]
    result = cp_lm(truth.to_dense(), rank=4, init=tg.CPTensor(truth.weights, near))
    assert result.error < 1e-13
    assert len(result.errors) <= 4


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_fits_of_noisy_tensors_are_stationary(dtype, rank):
    x = noisy((6, 5, 4), 3, dtype).astype(dtype)
    result = cp_lm(x, rank=rank, init="random", stall=1e-9, rng=1)
    check_result(x, result, caps=rank)
    t = result.tensor.astype("complex128" if "complex" in dtype else "float64")
    balanced = [u * to_host(t.weights) ** (1 / 3) for u in t.factors]
    _, descent = Residual(x.astype(t.dtype))(balanced)
    slope = np.linalg.norm(flat(descent)) / np.linalg.norm(x) / max(np.linalg.norm(u) for u in balanced) ** 2
    assert slope < (1e-3 if rank == 6 else 300 * math.sqrt(eps(dtype)) if "float32" in dtype or "64" in dtype else 1e-4)


def test_errors_fall_and_the_last_is_the_error():
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((4, 5, 6))
        result = cp_lm(x, rank=4, init="random", rng=seed)
        assert np.all(np.diff(result.errors) < 0)
        assert result.errors[-1] == result.error


@pytest.mark.parametrize("seed", range(10))
def test_more_terms_than_a_tensor_can_need_are_lowered_and_exact(seed):
    # Not by luck of the steps, which in one of a hundred such tensors end in a swamp.
    x = np.random.default_rng(seed).standard_normal((2, 3, 4))
    result = cp_lm(x, rank=50)
    assert result.tensor.rank == 6
    assert result.error < 1e-15


def test_long_modes_never_enter_the_system():
    assert Curvature(draw((1000, 4, 50), 6, "float64")).unknowns == 6 * (6 + 4 + 6)


def test_large_systems_reach_all_digits_too(monkeypatch, xp):
    monkeypatch.setattr(lm_step, "SMALL", 0)
    monkeypatch.setattr(lm_step, "DENSE", 0)
    x = tg.random.cp((6, 7, 8), rank=4, rng=0).to_dense()
    assert cp_lm(xp.asarray(x), rank=4, n_starts=5, rng=0, tol=1e-12).stop is tg.Stop.tol


@pytest.mark.parametrize("share", [0.0, 1e-3])
def test_large_tensors_go_by_their_core_and_lose_nothing(monkeypatch, share):
    x = noisy((30, 20, 40), 3, "float64", share=share)
    whole = cp_lm(x, rank=3, rng=0)
    monkeypatch.setattr("tensorring.decompose.iterative._cp.core.COMPRESSED_FROM", 1)
    by_core = cp_lm(x, rank=3, rng=0)
    check_result(x, by_core)
    assert by_core.error <= whole.error * (1 + 1e-6) + 1e-14


# Hard cases.


def multiplication(n, m, p):
    """The tensor of matrix multiplication ⟨n, m, p⟩."""
    x = np.zeros((n * m, m * p, p * n))
    for i, j, k in itertools.product(range(n), range(m), range(p)):
        x[i * m + j, j * p + k, k * n + i] = 1
    return x


def collinear(seed):
    """4 × 4 × 4 of rank 5, four columns at a cosine of 0.99 in every mode."""
    rng, factors = np.random.default_rng(seed), []
    for _ in range(3):
        q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
        gram = np.full((4, 4), 0.99) + 0.01 * np.eye(4)
        factors.append(np.hstack([q @ np.linalg.cholesky(gram).T, rng.standard_normal((4, 1))]))
    return dense(factors)


@pytest.mark.parametrize("seed", range(4))
def test_strassen_is_found(seed):
    x = multiplication(2, 2, 2)
    result = cp_lm(x, rank=7, init="random", n_starts=4, tol=1e-12, rng=seed)
    assert result.stop is tg.Stop.tol
    check_result(x, result, caps=7)


def test_collinear_terms_are_found():
    """Where alternating least squares creeps: thousands of sweeps to 1e-5."""
    found = [cp_lm(collinear(seed), rank=5, init="random", n_starts=6, tol=1e-12, rng=0).converged for seed in range(3)]
    assert sum(found) >= 2


def near_border(eps):
    """Slices I and [[0, 1], [0, eps]]: rank 2 with terms of size 1/eps, and rank 3 at eps = 0."""
    return np.stack([np.eye(2), np.array([[0.0, 1.0], [0.0, eps]])], axis=2)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("size", [1e-1, 1e-2, 3e-3])
@pytest.mark.parametrize("long", [False, True])
def test_terms_that_cancel_are_followed(size, long, dtype):
    x = near_border(size).astype(dtype)
    if long:
        x = tg.TuckerTensor(x, [np.linalg.qr(u)[0] for u in draw((6, 5, 7), 2, dtype)]).to_dense()
    result = cp_lm(x, rank=2, init="random", n_starts=3, rng=0)
    assert result.error < 1e-10
    assert to_host(result.tensor.weights)[0] > 0.9 / size


@pytest.mark.parametrize("dtype", WIDE)
def test_where_no_best_approximation_exists_it_says_so(dtype):
    """W = aab + aba + baa: rank 3, and a limit of tensors of rank 2."""
    x = np.zeros((2, 2, 2), dtype)
    x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    result = cp_lm(x, rank=2, init="random", rng=0)
    check_result(x, result)
    assert result.stop is tg.Stop.border_rank
    assert not result.converged
    assert cp_lm(x, rank=3, init="random", n_starts=3, rng=0).error < 1e-6


def test_terms_that_cancel_are_followed_elsewhere(xp):
    result = cp_lm(xp.asarray(near_border(3e-3)), rank=2, init="random", rng=0)
    assert result.error < 1e-10


def test_a_tolerance_above_the_limit_is_kept_all_the_same():
    result = cp_lm(near_border(0.0), rank=2, init="random", rng=0, tol=1e-3)
    assert result.stop is tg.Stop.tol


# Arguments and control.


def test_a_given_start_is_where_it_starts(dtype):
    truth = tg.random.cp((4, 5, 6), rank=3, dtype=dtype, rng=0)
    x = 3e4 * truth.to_dense()
    start = tg.CPTensor(3e4 * truth.weights, truth.factors)
    result = cp_lm(x, rank=3, init=start)
    assert len(result.errors) == 1
    assert result.error <= 20 * eps(dtype)


@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_a_start_of_another_scale_gives_its_directions(scale):
    truth = tg.random.cp((4, 5, 6), rank=3, rng=0)
    start = tg.CPTensor(scale * truth.weights, truth.factors)
    assert cp_lm(truth.to_dense(), rank=3, init=start).error < 1e-13


@pytest.mark.parametrize(
    ("init", "error", "part"),
    [
        ("svd", ValueError, "'hosvd'"),
        (3, (TypeError, ValueError), "3"),
        (tg.random.cp((4, 5, 7), rank=2, rng=0), ValueError, "(4, 5, 7)"),
        (tg.random.cp((4, 5, 6), rank=3, rng=0), ValueError, "rank 3"),
        (tg.random.cp((4, 5, 6), rank=2, dtype="complex128", rng=0), (TypeError, ValueError), "complex"),
    ],
)
def test_starts_that_do_not_fit_are_refused(init, error, part):
    with pytest.raises(error) as info:
        cp_lm(np.ones((4, 5, 6)), rank=2, init=init)
    assert part in str(info.value)


def test_what_is_no_finite_tensor_is_refused():
    check_refusals(cp_lm, rank=2)


@pytest.mark.parametrize("init", ["hosvd", "random", "gevd", "greedy"])
def test_every_start_leads_there_and_the_same_seed_to_the_same(init):
    x = noisy((5, 6, 4), 3, "float64", share=1e-3)
    one, other = (cp_lm(x, rank=3, init=init, n_starts=3, rng=7) for _ in range(2))
    assert one.error < 2e-3
    assert one.errors == other.errors
    np.testing.assert_array_equal(one.tensor.to_dense(), other.tensor.to_dense())


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scales_change_nothing(scale):
    x = tg.random.cp((4, 5, 6), rank=2, rng=0).to_dense()
    result = cp_lm(x * scale, rank=2, rng=0)
    check_result(x * scale, result)
    assert result.error < 1e-13


def test_a_zero_tensor_has_rank_one():
    result = cp_lm(np.zeros((3, 4, 5)), rank=3)
    assert (result.error, result.tensor.rank) == (0.0, 1)


def test_it_stops_when_told_to_and_keeps_what_it_has():
    x = np.random.default_rng(0).standard_normal((5, 6, 7))
    budget = cp_lm(x, rank=4, init="random", rng=0, callback=lambda sweep, _: sweep >= 3)
    assert (budget.stop, len(budget.errors)) == (tg.Stop.budget, 3)

    def interrupt(sweep, _):
        if sweep == 3:
            raise KeyboardInterrupt

    interrupted = cp_lm(x, rank=4, init="random", rng=0, callback=interrupt)
    assert interrupted.stop is tg.Stop.interrupted
    for result in (budget, interrupted):
        check_result(x, result)
        assert not (result.stop is tg.Stop.interrupted and result.converged)
    assert cp_lm(x, rank=4, init="random", rng=0, max_sweeps=2).stop is tg.Stop.max_sweeps


def test_the_input_is_left_alone():
    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    before = x.copy()
    x.flags.writeable = False
    cp_lm(x, rank=3, rng=0)
    np.testing.assert_array_equal(x, before)


def test_nothing_is_nan_where_everything_is_degenerate():
    for x in (np.ones((3, 3, 3)), np.eye(3)[:, :, None] * np.ones(3), np.zeros((2, 2, 2)) + 1e-300):
        for rank, init in itertools.product((1, 3, 5), ("hosvd", "random", "greedy")):
            result = cp_lm(x, rank=rank, init=init, rng=0)
            check_result(x, result)
