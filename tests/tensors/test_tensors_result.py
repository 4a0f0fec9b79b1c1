"""The one result type."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import tensorring as tg


@pytest.fixture
def result() -> tg.Decomposition:
    return tg.Decomposition(
        tensor=tg.random.tr((3, 4, 5), ranks=(1, 2, 2), rng=0),
        error=0.123456,
        converged=True,
        stop=tg.Stop.tol,
        errors=(0.5, 0.123456),
        candidates=(tg.Candidate("tr", (1, 2, 2), 32, 0.123456), tg.Candidate("tt", (2, 2), 1_032, 0.1)),
        estimated=True,
    )


def test_the_ratio_is_entries_over_parameters(result) -> None:
    assert result.ratio == 60 / result.tensor.parameter_count


def test_what_is_printed(result) -> None:
    table = str(result)
    for part in ("TRTensor", "3 × 4 × 5", "1, 2, 2", "0.1235 (estimated), converged", "tolerance is kept", "1,032"):
        assert part in table
    assert repr(result).startswith("Decomposition(TRTensor(")
    assert "\n" not in repr(result)
    plain = dataclasses.replace(result, converged=False, estimated=False, candidates=())
    assert "0.1235, not converged" in str(plain)
    assert "tried" not in str(plain)


def test_a_tensor_of_one_mode_has_no_ranks_to_show() -> None:
    t = tg.TTTensor([np.ones((1, 4, 1))])
    assert "(none)" in str(tg.Decomposition(t, 0.0, True, tg.Stop.direct))


def test_it_is_frozen(result) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.error = 0.0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))], ids=["deepcopy", "pickle"])
def test_copies_keep_everything(result, again) -> None:
    other = again(result)
    for field in dataclasses.fields(result):
        if field.name != "tensor":
            assert getattr(other, field.name) == getattr(result, field.name)
    assert other.stop is tg.Stop.tol
    np.testing.assert_array_equal(other.tensor.to_dense(), result.tensor.to_dense())


def test_every_stop_is_a_string_with_help() -> None:
    for stop in tg.Stop:
        assert stop == stop.value == str(stop) == stop.name
        assert stop.help.endswith(".")
        assert tg.Stop(stop.value) is stop
        assert pickle.loads(pickle.dumps(stop)) is stop
