"""Partials of chains against naive contractions, and transfer matrices against the Gram matrix of the subchain."""

import numpy as np
import pytest

import tensorring as tg
from tensorring.contract.chain_tree import (
    ThreeCores,
    Transfers,
    contract_core,
    first_partial,
    gram_of,
    halves,
    open_chain,
    project_on_chain,
    three_cores,
)

CASES = [((5, 6), (2, 3)), ((4, 5, 6), (2, 3, 4)), ((3, 4, 5, 2), (2, 1, 3, 2)), ((2, 3, 2, 3, 4), (3, 2, 1, 2, 2))]


def subchain(cores, n):
    """K[(i_{n+1} … i_{n−1}), (a, b)] of all cores but n, one slice of the last contraction at a time."""
    product = None
    for core in [*cores[n + 1 :], *cores[:n]]:
        product = core if product is None else np.tensordot(product, core, axes=(-1, 0))
    b, a = product.shape[0], product.shape[-1]
    return np.moveaxis(product.reshape(b, -1, a), 1, 0).transpose(0, 2, 1).reshape(-1, a * b)


def unfolded(x, n):
    """x[(i_{n+1} … i_{n−1}), i_n]."""
    return np.transpose(x, [*range(n + 1, x.ndim), *range(n), n]).reshape(-1, x.shape[n])


@pytest.mark.parametrize(("shape", "ranks"), CASES)
def test_open_chain_is_the_chain_with_its_bonds_in_front(shape, ranks, dtype, xp):
    cores = tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=1).cores
    found = xp.to_numpy(open_chain([xp.asarray(core) for core in cores]))
    naive = cores[0]
    for core in cores[1:]:
        naive = np.tensordot(naive, core, axes=(-1, 0))
    naive = naive.reshape(ranks[0], -1, ranks[0]).transpose(0, 2, 1)
    np.testing.assert_allclose(found, naive, rtol=0, atol=100 * np.finfo(dtype).eps * np.abs(naive).max())


@pytest.mark.parametrize(("shape", "ranks"), CASES)
def test_partials_give_what_every_core_needs(shape, ranks, dtype, xp, gaussian):
    """Cores are replaced by random ones as the sweep passes them: a stale partial would show."""
    x, cores = gaussian(shape, dtype), list(tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=1).cores)
    arrays = [xp.asarray(core) for core in cores]
    for half in halves(shape):
        outside = arrays[half.hi :] if half.lo == 0 else arrays[: half.lo]
        (part,) = first_partial(xp.asarray(x), half, outside)
        partial = part.partial
        for n in range(half.lo, half.hi):
            chain = open_chain(arrays[n + 1 : half.hi]) if n + 1 < half.hi else None
            found = xp.to_numpy(project_on_chain(partial, chain))
            wanted = np.conj(subchain(cores, n)).T @ unfolded(x, n)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=200 * np.finfo(dtype).eps * np.abs(wanted).max())
            cores[n] = gaussian(cores[n].shape, dtype)
            arrays[n] = xp.asarray(cores[n])
            if chain is not None:
                partial = contract_core(partial, arrays[n])
                partial = xp.namespace.reshape(partial, (*partial.shape[:2], shape[n + 1], -1))


@pytest.mark.parametrize("lo", [0, 1])
def test_blocks_of_rows_make_up_the_whole_partial(lo, monkeypatch, gaussian):
    x, cores = gaussian((7, 6, 5)), tg.random.tr((7, 6, 5), ranks=2, rng=1).cores
    half = halves(x.shape)[lo]
    outside = cores[half.hi :] if half.lo == 0 else cores[: half.lo]
    (whole,) = first_partial(x, half, outside)
    monkeypatch.setattr("tensorring.contract.chain_tree._rows_of_a_block", lambda x, entries: 2)
    parts = [(part.rows, part.partial.copy()) for part in first_partial(x, half, outside)]
    assert len(parts) > 2
    np.testing.assert_allclose(np.concatenate([p for _, p in parts], axis=2), whole.partial, atol=1e-13)
    assert [i for rows, _ in parts for i in range(rows.start, rows.stop)] == list(range(x.shape[half.lo]))


@pytest.mark.parametrize(("shape", "ranks"), CASES)
def test_transfer_matrices_give_the_gram_matrix_of_the_subchain(shape, ranks, dtype, xp):
    """Cores change as the sweep passes them, and the environments follow."""
    cores = list(tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=1).cores)
    transfers = Transfers([xp.asarray(core) for core in cores])
    for _ in range(2):
        for n in range(len(shape)):
            gram = xp.to_numpy(gram_of(transfers.environment(n)))
            chain = subchain([core.astype("complex128") for core in cores], n)
            wanted = np.conj(chain).T @ chain
            np.testing.assert_allclose(gram, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
            cores[n] = (2 * cores[n][:, ::-1] + 1).astype(dtype)
            transfers.told(n, xp.asarray(cores[n]))


def test_a_small_bond_in_the_middle_is_where_the_ring_is_opened():
    cores = tg.random.tr((3, 4, 5, 6), ranks=(6, 5, 1, 4), rng=0).cores
    transfers = Transfers(cores)
    for n in range(4):
        assert transfers.environment(n).shape == (cores[n].shape[2],) * 2 + (cores[n].shape[0],) * 2
        transfers.told(n, cores[n])


def test_the_multi_sweep_tree_of_three_cores(dtype, xp, gaussian) -> None:
    """Random cores in each update, and all of them between two sweeps: stale partials would show."""
    shape, ranks = (4, 5, 6), (2, 3, 4)
    x = gaussian(shape, dtype)

    def drawn(k):
        return gaussian((ranks[k], shape[k], ranks[(k + 1) % 3]), dtype)

    tree, cores = ThreeCores(xp.asarray(x)), [drawn(k) for k in range(3)]
    held = [xp.asarray(core) for core in cores]
    for sweep in range(5):
        for n in range(3):
            after, last = (n + 1) % 3, (n + 2) % 3
            turned = np.transpose(x, (n, after, last))
            expected = np.einsum("ijk,sjq,qkp->psi", turned, cores[after].conj(), cores[last].conj())
            got = xp.to_numpy(tree.product(n, held))
            np.testing.assert_allclose(got, expected.reshape(-1, shape[n]), atol=1e4 * np.finfo(dtype).eps)
            cores[n] = drawn(n)
            held[n] = xp.asarray(cores[n])
        if sweep == 3:
            cores = [drawn(k) for k in range(3)]
            held = [xp.asarray(core) for core in cores]


def test_the_multi_sweep_tree_reads_x_three_times_in_two_sweeps(monkeypatch, gaussian) -> None:
    import tensorring.contract.chain_tree as module

    passes = []
    for name in ("contract_before", "contract_after"):
        one = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, one=one: (passes.append(1), one(*args))[1])
    x = gaussian((20, 21, 22))
    cores = [gaussian((2, n, 2)) for n in x.shape]
    assert three_cores(gaussian((3, 4, 5, 6)), [gaussian((1, n, 1)) for n in (3, 4, 5, 6)]) is None
    assert three_cores(x, [gaussian((3, n, 3)) for n in x.shape]) is None  # a partial of 9/20 of x
    tree = three_cores(x, cores)
    for _ in range(4):
        for n in range(3):
            tree.product(n, cores)
            cores[n] = gaussian((2, x.shape[n], 2))
    assert len(passes) == 6
