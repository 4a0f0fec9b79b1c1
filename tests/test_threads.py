"""Many threads at once give what one thread gives."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tensorring as tg

METHODS = {
    "tt_svd": lambda x: tg.tt_svd(x, tol=0.1),
    "tr_svd": lambda x: tg.tr_svd(x, tol=0.1),
    "tucker_hosvd": lambda x: tg.tucker_hosvd(x, tol=0.1),
    "tr_reduced_storage": lambda x: tg.tr_reduced_storage(x, tol=0.3),
    "compress": lambda x: tg.compress(x, tol=0.3),
    "cp_als": lambda x: tg.cp_als(x, rank=3, n_starts=2, max_sweeps=20, rng=0),
    "tucker_hooi": lambda x: tg.tucker_hooi(x, tol=0.3, rng=0),
    "tt_als": lambda x: tg.tt_als(x, ranks=2, init="random", n_starts=2, max_sweeps=20, rng=0),
    "tr_als": lambda x: tg.tr_als(x, ranks=2, n_starts=2, max_sweeps=20, rng=0),
    "tr_als by tol": lambda x: tg.tr_als(x, tol=0.3, rng=0),
}
# Sweeps amplify the rounding that the order of sums leaves; direct methods do not. `compress` refines its ring.
SWEPT = ("compress", "cp_als", "tucker_hooi", "tt_als", "tr_als", "tr_als by tol")


@pytest.mark.parametrize("name", METHODS)
def test_decompositions_in_threads(name, gaussian) -> None:
    """Results agree on the dense tensor: BLAS may share its work out differently when it is busy."""
    method, rounding = METHODS[name], 1e-8 if name in SWEPT else 1e-12
    inputs = [tg.random.tr((7, 6, 5), ranks=2, rng=seed).to_dense() + 0.2 * gaussian((7, 6, 5)) for seed in range(24)]
    untouched = [x.copy() for x in inputs]
    expected = [method(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(method, inputs))
    for x, one, two in zip(inputs, expected, results, strict=True):
        assert one.tensor.ranks == two.tensor.ranks
        assert one.error == pytest.approx(two.error, rel=rounding)
        np.testing.assert_allclose(one.tensor.to_dense(), two.tensor.to_dense(), atol=rounding * np.linalg.norm(x))
    for x, before in zip(inputs, untouched, strict=True):
        np.testing.assert_array_equal(x, before)


def test_one_input_shared_by_all(gaussian) -> None:
    x = gaussian((8, 7, 6))
    expected = tg.tt_svd(x, tol=0.3).error
    with ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(lambda _: tg.tt_svd(x, tol=0.3).error, range(64)))
    assert errors == pytest.approx([expected] * 64, rel=1e-12)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_readers_see_a_whole_file_while_it_is_written(tmp_path, suffix) -> None:
    """Two tensors take turns under one name: who reads gets one or the other, never a mixture or half a file."""
    path = tmp_path / f"t{suffix}"
    tensors = [tg.random.tt((30, 40), ranks=3, rng=seed) for seed in range(2)]
    dense = [t.to_dense() for t in tensors]
    tg.save(path, tensors[0])

    def work(k: int) -> bool:
        if k % 2:
            tg.save(path, tensors[(k // 2) % 2])
            return True
        x = tg.load(path).to_dense()
        return any(np.array_equal(x, y) for y in dense)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
