"""The strategies: what they promise to draw, and that they do draw it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import tensorring as tg
from tensorring import testing
from tensorring.testing import (
    cp_tensors,
    cut_tensors,
    low_rank_tensors,
    tensors,
    tolerances,
    tr_tensors,
    tt_tensors,
    tucker_tensors,
)
from tensorring.testing.samples import LAYOUTS, VALUES


def drawn(strategy, count: int = 300) -> list:
    """Many examples of a strategy."""
    found: list = []

    @settings(
        max_examples=count, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value) -> None:
        found.append(value)

    collect()
    return found


def test_dense_tensors_reach_every_kind() -> None:
    found = drawn(tensors())
    assert {x.ndim for x in found} == {1, 2, 3, 4, 5}
    assert {x.dtype.name for x in found} == {"float32", "float64", "complex64", "complex128"}
    assert {n for x in found for n in x.shape} == set(range(1, 8))
    assert all(np.isfinite(x).all() for x in found)
    assert any(not x.flags.writeable for x in found)
    assert any(min(x.strides) < 0 for x in found)
    assert any(x.ndim > 1 and x.flags.f_contiguous and not x.flags.c_contiguous for x in found)
    assert any(x.ndim > 1 and not x.flags.f_contiguous and not x.flags.c_contiguous for x in found)
    peaks = {round(np.log10(np.max(np.abs(x.real))) / 30) for x in found if x.any()}
    assert {-5, -1, 0, 1, 5} <= peaks
    assert any(not x.any() for x in found)


@given(
    x=tensors(shape=(3, 2, 4), dtype="float32", layout=st.sampled_from(["C", "F"]), values="gaussian", scale=1.0),
)
def test_options_are_values_or_strategies(x) -> None:
    assert (x.shape, x.dtype) == ((3, 2, 4), np.float32)
    assert x.flags.c_contiguous or x.flags.f_contiguous
    assert 0 < np.max(np.abs(x)) < 10


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype("complex64"), "complex64"])
def test_dtypes_in_every_spelling(dtype) -> None:
    assert {x.dtype.name for x in drawn(tensors(dtype=dtype), 5)} == {"complex64"}


@given(tensors(dtype=st.sampled_from(["complex64", "complex128"]), values="low_rank", scale=1.0, ndim=2, max_size=6))
def test_complex_data_have_noise(x) -> None:
    """No complex example is of low rank, so that a conjugate that is missing shows."""
    values = np.linalg.svd(x, compute_uv=False)
    assert values[-1] > 1e-7 * values[0]


@given(tensors(values="equal", scale=1.0, ndim=st.integers(2, 4)))
def test_equal_singular_values_are_equal(x) -> None:
    rows = int(np.prod(x.shape[: x.ndim // 2]))
    values = np.linalg.svd(x.reshape(rows, -1).astype("complex128"), compute_uv=False)
    np.testing.assert_allclose(values, 1, atol=100 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("is_complex", [False, True])
def test_every_kind_of_entries_has_its_shape_and_kind(kind, is_complex) -> None:
    x = VALUES[kind]((3, 1, 4), is_complex, np.random.default_rng(0))
    assert x.shape == (3, 1, 4)
    assert np.iscomplexobj(x) == is_complex


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_the_entries(layout) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(LAYOUTS[layout](x), x)
    assert x.flags.writeable


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        (cp_tensors, tg.CPTensor), (tucker_tensors, tg.TuckerTensor), (tt_tensors, tg.TTTensor),
        (tr_tensors, tg.TRTensor), (cut_tensors, tg.CutTensor),
    ],
)  # fmt: skip
def test_low_rank_tensors_of_one_format(strategy, kind) -> None:
    found = drawn(strategy(max_size=5, max_rank=3), 150)
    assert {type(t) for t in found} == {kind}
    assert max(t.ndim for t in found) == 5
    assert min(t.ndim for t in found) == (2 if kind is tg.CutTensor else 1)
    assert max(n for t in found for n in t.shape) == 5
    assert max(r for t in found for r in t.ranks) == 3
    assert {np.dtype(t.dtype).name for t in found} == {"float32", "float64", "complex64", "complex128"}
    assert all(t.shape == (2, 3) for t in drawn(strategy(shape=(2, 3)), 5))


def test_any_format() -> None:
    everything = {tg.CPTensor, tg.TuckerTensor, tg.TTTensor, tg.TRTensor, tg.CutTensor}
    assert {type(t) for t in drawn(low_rank_tensors())} == everything
    assert {type(t) for t in drawn(low_rank_tensors(shape=(2, 3)), 100)} == everything
    for options in ({"ndim": 1}, {"shape": (3,)}, {"ndim": st.just(1)}):
        assert {type(t) for t in drawn(low_rank_tensors(**options), 100)} == everything - {tg.CutTensor}


def test_tolerances_are_in_their_range_and_include_the_ends() -> None:
    found = drawn(tolerances())
    assert {0.0, 0.99} <= set(found)
    assert all(0 <= tol <= 0.99 for tol in found)
    assert len(set(found)) > 20
    assert all(0.2 <= tol <= 0.3 for tol in drawn(tolerances(min_value=0.2, max_value=0.3), 50))


def test_examples_shrink_to_what_can_be_read() -> None:
    """A failure in anything of three modes is reported as the smallest such tensor."""
    seen: list[tuple[int, ...]] = []

    @settings(database=None, derandomize=True, deadline=None, max_examples=200)
    @given(tensors())
    def fails(x) -> None:
        if x.ndim >= 3 and x.shape[1] > 1:
            seen.append(x.shape)
            raise AssertionError

    with pytest.raises(AssertionError):
        fails()
    assert seen[-1] == (1, 2, 1)


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'matrices'"):
        testing.matrices  # noqa: B018
    assert callable(testing.tensors)
