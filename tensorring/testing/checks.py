"""The promises of a decomposition, as checks that anybody can run on one: ours, or their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tensorring._array import FLOATS, Array, compute_dtype_name, dtype_name, eps, namespace, to_host
from tensorring.contract.chain import chain_product
from tensorring.linalg.rank import error_floor
from tensorring.linalg.scale import scaled
from tensorring.tensors import Decomposition, LowRankTensor, Stop, TRTensor
from tensorring.testing.samples import LAYOUTS, VALUES, Dense

Method = Callable[..., Decomposition[Any]]
ToBackend = Callable[[Dense], Array]

TOLERANCES = (0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99)
# Ordinary shapes, prime sizes, one far longer mode at either end, modes of size 1, one mode, many modes.
SHAPES: tuple[tuple[int, ...], ...] = (
    (6, 5, 4), (7, 5, 3, 2), (11, 13), (40, 3, 2), (2, 3, 40), (1, 6, 1, 5), (1, 1, 1), (9,), (1,), (2, 3, 2, 3, 2),
)  # fmt: skip


def check_result(x: Array, result: Decomposition[Any], *, tol: float | None = None, caps: Any = None) -> None:
    """Asserts what a result promises of the tensor that it came from.

    Its shape, dtype and library are those of x; its error is the one of the dense tensors, to the error floor (times
    ‖chain‖ / ‖x‖ for rings, whose terms may cancel); it keeps `tol` unless capped, and says whether it does; it keeps
    the caps; nothing in it is NaN or infinite.

    Parameters
    ----------
    x
        The tensor that was decomposed.
    result
        What came of it.
    tol
        The tolerance asked, or None.
    caps
        The ranks asked: an int or a sequence with None for no cap, or None.

    Raises
    ------
    AssertionError
        Naming the promise that is broken, with both numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> from tensorring.testing import check_result
    >>> x = np.random.default_rng(0).standard_normal((4, 5, 6))
    >>> check_result(x, tg.tt_svd(x, tol=0.3), tol=0.3)
    """
    t = result.tensor
    assert t.shape == tuple(x.shape), f"shape {t.shape} of a tensor of shape {tuple(x.shape)}"
    name = compute_dtype_name(x.dtype)
    assert dtype_name(t.dtype) == name, f"dtype {dtype_name(t.dtype)} from {dtype_name(x.dtype)}"
    assert namespace(*t.arrays) is namespace(x), "the result is in another library"
    assert all(np.isfinite(to_host(array)).all() for array in t.arrays), f"{t!r} holds NaN or inf"
    floor = error_floor(name, len(t.shape))
    error = dense_error(x, t)
    slack = floor * max(1.0, _cancellation(x, t))
    assert abs(error - result.error) <= slack, f"error reported {result.error}, made {error}"
    if tol is not None:
        kept = error <= tol + slack
        assert kept or caps is not None, f"error {error} at tol={tol} without caps"
        assert result.converged == (result.error <= tol + floor), f"converged={result.converged} at {result.error}"
    elif result.stop is Stop.direct:
        assert result.converged, "a direct method always ends by itself"
    assert not (result.stop is Stop.direct and result.estimated), "a direct method knows its error"
    if caps is not None:
        limits = [caps] * len(t.ranks) if isinstance(caps, int) else caps
        kept = all(cap is None or rank <= cap for rank, cap in zip(t.ranks, limits, strict=True))
        assert kept, f"ranks {t.ranks} under caps {caps}"


def dense_error(x: Array, t: LowRankTensor) -> float:
    """‖x − t‖ / ‖x‖ from the dense tensors, in double precision on the host, and 0 where both are zero."""
    wide = "complex128" if "complex" in dtype_name(t.dtype) else "float64"
    host, exponent = _without_scale(to_host(x).astype(wide))
    dense = scaled(to_host(t.astype(wide).to_dense()), -exponent)
    norm, error = float(np.linalg.norm(host)), float(np.linalg.norm(dense - host))
    return error / norm if norm else float(error > 0)


def _without_scale(x: Dense) -> tuple[Dense, int]:
    """The array divided by a power of two near its largest entry, so that squares are safe, and the exponent."""
    exponent = math.frexp(float(np.max(np.abs(x))))[1]
    return scaled(x, -exponent), exponent


def _cancellation(x: Array, t: LowRankTensor) -> float:
    """‖chain‖ / ‖x‖ of a ring, the chain being what the closing trace sums over; 1 for other formats."""
    if not isinstance(t, TRTensor):
        return 1.0
    host, exponent = _without_scale(to_host(x).astype("complex128"))
    *cores, last = t.astype("complex128").cores
    norm = float(np.linalg.norm(host))
    chain = float(np.linalg.norm(to_host(chain_product([*cores, scaled(last, -exponent)]))))
    return chain / norm if norm else 1.0


def check_decomposition(
    fn: Method,
    *,
    tol: bool = True,
    ranks: bool = True,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    dtypes: Sequence[str] = FLOATS,
    backends: Sequence[ToBackend] = (),
    seed: int = 0,
) -> None:
    """Runs a decomposition over all kinds of tensors and asserts every promise that decompositions make.

    Shapes, dtypes, kinds of entries (Gaussian, low rank with noise, decaying, equal singular values, sparse, constant,
    zeros), scales from 1e-150 to 1e150 (1e-30 to 1e30 in single precision), memory orders, read-only input, tolerances
    from 0 to 0.99, caps; the same result twice (for each tensor at one of these, in turn), the input untouched, NaN and
    inf refused by index; and on other libraries the same dense result as on NumPy. See `check_result` for what is
    asserted of each.

    Parameters
    ----------
    fn
        `fn(x, tol=…)`, `fn(x, ranks=…)` -> `Decomposition`.
    tol, ranks
        Which of the two keywords it takes.
    shapes
        Those to try; a method that needs two modes leaves out the shorter ones.
    dtypes
        Those to try, by name.
    backends
        Functions that bring a NumPy array to another library or device.
    seed
        Of the entries.

    Raises
    ------
    AssertionError
        Naming the case and the promise.

    Examples
    --------
    >>> import tensorring as tg
    >>> from tensorring.testing import check_decomposition
    >>> check_decomposition(tg.tt_svd, shapes=[(4, 3, 2)], dtypes=["float64"])
    """
    asked = _options(tol, ranks)
    for turn, (name, x) in enumerate(_cases(shapes, dtypes, seed)):
        for k, options in enumerate(asked):
            _check_case(fn, x, options, f"{name} {options}", twice=k == turn % len(asked))
    check_refusals(fn, **({"tol": 0.1} if tol else {"ranks": 1}))
    for to_backend in backends:
        for shape in shapes:
            for dtype in dtypes:
                check_backend(fn, to_backend, shape, dtype, {"tol": 0.05} if tol else {"ranks": 2}, seed)


def _options(tol: bool, ranks: bool) -> list[dict[str, Any]]:
    options: list[dict[str, Any]] = [{"tol": value} for value in TOLERANCES] if tol else []
    options += [{"ranks": cap} for cap in (1, 2, 3, 1000)] if ranks else []
    return options + ([{"tol": 0.1, "ranks": 2}] if tol and ranks else [])


def _cases(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], seed: int) -> Iterator[tuple[str, Dense]]:
    """Every kind of entries at every shape, the dtype, layout and scale taken in turn so that all of them meet."""
    layouts, kinds = list(LAYOUTS), list(VALUES)
    for i, shape in enumerate(shapes):
        for j, kind in enumerate(kinds):
            for k, dtype in enumerate(dtypes):
                layout = layouts[(i + j + k) % len(layouts)]
                power = (0, 0, 1, -1)[(i + 2 * j + k) % 4] * (30 if dtype in ("float32", "complex64") else 150)
                x = VALUES[kind](shape, "complex" in dtype, np.random.default_rng([seed, i, j, k])) * 10.0**power
                yield f"{kind} {layout} {shape} {dtype} 1e{power}", LAYOUTS[layout](x.astype(dtype))


def _check_case(fn: Method, x: Dense, options: dict[str, Any], name: str, *, twice: bool) -> None:
    before = x.copy()
    result = fn(x, **options)
    try:
        assert np.array_equal(x, before), "the input was written to"
        check_result(x, result, tol=options.get("tol"), caps=options.get("ranks"))
        if twice:
            pairs = zip(result.tensor.arrays, fn(x, **options).tensor.arrays, strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs), "two calls gave two results"
        assert not any(np.may_share_memory(x, array) for array in result.tensor.arrays), "the result is a view of x"
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from None


def check_refusals(fn: Method, **options: Any) -> None:
    """Asserts that NaN and inf are refused by index, and that tensors without entries or modes are refused.

    Examples
    --------
    >>> import tensorring as tg
    >>> from tensorring.testing import check_refusals
    >>> check_refusals(tg.tt_svd, tol=0.1)
    """
    for value in (math.nan, math.inf, -math.inf):
        x = np.ones((3, 4, 5))
        x[1, 2, 3] = value
        _refused(fn, x, options, "[1, 2, 3]")
    for shape in ((), (0,), (2, 0, 3)):
        _refused(fn, np.ones(shape), options, str(shape))


def _refused(fn: Method, x: Dense, options: dict[str, Any], part: str) -> None:
    message = None
    try:
        fn(x, **options)
    except ValueError as error:
        message = str(error)
    assert message is not None, f"a tensor that should be refused was not: {part}"
    assert part in message, f"the message {message!r} does not say {part}"


def check_backend(
    fn: Method,
    to_backend: ToBackend,
    shape: tuple[int, ...],
    dtype: str,
    options: dict[str, Any],
    seed: int = 0,
    *,
    spread: float = 0.0,
) -> None:
    """Asserts that another library keeps the promises, and gives the error and the dense tensor that NumPy gives.

    The dense tensors agree to 1,000 eps, and to `spread` eps of double precision more: sweeps amplify rounding where a
    fit is nearly not unique, which its error does not show. The errors agree to 1e-10 and 1,000 eps; two that are both
    smaller than what the dense tensors may differ by are both rounding.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> from tensorring.testing import check_backend
    >>> check_backend(tg.tt_svd, np.asarray, (4, 3, 2), "float64", {"tol": 0.1})
    """
    x = VALUES["decaying"](shape, "complex" in dtype, np.random.default_rng(seed)).astype(dtype)
    ours, theirs = fn(x, **options), fn(to_backend(x), **options)
    check_result(to_backend(x), theirs, tol=options.get("tol"), caps=options.get("ranks"))
    a, b = to_host(ours.tensor.to_dense()), to_host(theirs.tensor.to_dense())
    assert ours.tensor.ranks == theirs.tensor.ranks, f"ranks {theirs.tensor.ranks}, on NumPy {ours.tensor.ranks}"
    # Subspaces move by rounding over the gap at the cut, which decaying spectra keep away from zero.
    difference = float(np.linalg.norm(a - b)) / float(np.linalg.norm(x))
    allowed = 1000 * eps(dtype) + spread * eps("float64")
    alike = abs(ours.error - theirs.error) <= 1e-10 + 1000 * eps(dtype)
    assert alike or max(ours.error, theirs.error) <= allowed, f"errors {theirs.error}, on NumPy {ours.error}"
    assert difference <= allowed, f"{shape} {dtype}: dense results differ by {difference}"
