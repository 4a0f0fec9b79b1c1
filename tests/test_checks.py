"""The contract finds what it is there for: methods, each of which breaks one promise, and what is said of it."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

import tensorring as tg
from tensorring.testing import check_decomposition, check_refusals, check_result
from tensorring.testing.checks import check_backend

SHAPE = (4, 3, 2)


def altered(change):
    """`tt_svd`, with its result changed."""
    return lambda x, **options: change(x, tg.tt_svd(x, **options))


def with_cores(result, *cores):
    return replace(result, tensor=tg.TTTensor(cores))


def written_to(x, **options):
    result = tg.tt_svd(x, **options)
    if x.flags.writeable:
        x[...] = 0
    return result


def as_it_is(x, result):
    """Tucker, with x itself for the core: without error, but not its own."""
    eyes = [np.eye(n, dtype=x.dtype) for n in x.shape]
    return replace(result, tensor=tg.TuckerTensor(x, eyes), error=0.0, converged=True)


def of_another_sign(turn):
    """The same tensor by other cores at every other call."""

    def change(_, result):
        first, second, *rest = result.tensor.cores
        sign = first.dtype.type((-1) ** next(turn))
        return with_cores(result, first * sign, second * sign, *rest)

    return altered(change)


def holding_nan(_, result):
    first, *rest = (core.copy() for core in result.tensor.cores)
    first[..., 0] = np.nan
    return with_cores(result, first, *rest)


BROKEN = {
    "writes to x": (written_to, "the input was written to"),
    "another result each time": (of_another_sign(count()), "two calls gave two results"),
    "a view of x": (altered(as_it_is), "the result is a view of x"),
    "NaN in the result": (altered(holding_nan), "holds NaN or inf"),
    "an error that is not made": (altered(lambda _, r: replace(r, error=r.error + 0.01)), "error reported"),
    "a tolerance that is not kept": (lambda x, tol: tg.tt_svd(x, tol=min(0.999, 2 * tol + 0.2)), "without caps"),
    "never converged": (altered(lambda _, r: replace(r, converged=False)), "converged=False"),
    "other modes": (lambda x, **options: tg.tt_svd(x.T, **options), r"shape \(2, 3, 4\)"),
    "another dtype": (lambda x, **options: tg.tt_svd(x.astype("complex128"), **options), "dtype complex128"),
    "NaN is taken for zero": (lambda x, **options: tg.tt_svd(np.nan_to_num(x), **options), "was not"),
}


@pytest.mark.parametrize(("method", "told"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_found(method, told):
    with pytest.raises(AssertionError, match=told):
        check_decomposition(method, ranks=False, shapes=[SHAPE], dtypes=["float64"])


def test_caps_that_are_not_kept_are_found():
    def without(x, tol=None, ranks=None):
        return tg.tt_svd(x, tol=tol or 0.0)

    with pytest.raises(AssertionError, match=r"ranks \(.*\) under caps 1"):
        check_decomposition(without, tol=False, shapes=[SHAPE], dtypes=["float64"])


def test_a_refusal_says_where():
    def refuses(x, **options):
        raise ValueError("no")

    with pytest.raises(AssertionError, match=r"'no' does not say \[1, 2, 3\]"):
        check_refusals(refuses, tol=0.1)


def test_estimates_are_no_direct_results():
    x = np.random.default_rng(0).standard_normal(SHAPE)
    result = tg.tt_svd(x, tol=0.1)
    check_result(x, result, tol=0.1)
    with pytest.raises(AssertionError, match="knows its error"):
        check_result(x, replace(result, estimated=True), tol=0.1)


def test_other_libraries_are_held_to_what_numpy_gives():
    """A method that knows where it runs, and does worse there; and one that comes back with NumPy's arrays."""

    class Elsewhere(np.ndarray):
        """NumPy under another name."""

    def worse(x, tol):
        return tg.tt_svd(np.asarray(x), tol=0.5 if isinstance(x, Elsewhere) else tol)

    with pytest.raises(AssertionError, match=r"ranks|error .* at tol"):
        check_backend(worse, lambda x: x.view(Elsewhere), (7, 5, 3, 2), "float64", {"tol": 1e-3})
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(AssertionError, match="in another library"):
        check_backend(
            lambda x, tol: tg.tt_svd(np.asarray(x), tol=tol), strict.asarray, (6, 5, 4), "float64", {"tol": 0.1}
        )
