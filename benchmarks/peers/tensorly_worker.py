"""tensorly: what it runs in each case, with its own defaults but for start, sweeps and tests of convergence."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorly as tl
import tensorly.datasets
from serve import Library, serve
from tensorly.decomposition import parafac, tensor_ring_als, tucker


def _read_cp(result):
    weights, factors = result
    return "cp", [weights, *factors], None


def cp_als(x, start, options):
    """Sweeps from a start; tol=0 skips the error of each sweep, which line search needs."""
    settings: dict[str, Any] = {"tol": 0, "n_iter_max": options["sweeps"]}
    if options.get("linesearch"):
        settings |= {"linesearch": True, "return_errors": True}

    def run():
        result = parafac(x, options["rank"], init=_cp(start), **settings)
        return result[0] if options.get("linesearch") else result

    return run, _read_cp


def _cp(start):
    return tl.cp_tensor.CPTensor((start[0].copy(), [factor.copy() for factor in start[1:]]))


def cp_errors(x, start, options):
    """The error after each sweep; with line search it keeps none for the sweeps that search, so the last one stands."""
    search = options.get("linesearch", False)
    settings = {"tol": 0, "n_iter_max": options["sweeps"], "linesearch": search, "return_errors": True}
    errors = [float(error) for error in parafac(x, options["rank"], init=_cp(start), **settings)[1]]
    if not search:
        return errors
    return errors[:6] + [error for pair in pairwise(errors[5:]) for error in pair]


def cp_fit(x, start, options):
    """As a user calls it: from its own start, until it converges."""

    def run():
        return parafac(x, options["rank"], n_iter_max=options["sweeps"], return_errors=True)

    def read(result):
        return *_read_cp(result[0])[:2], len(result[1])

    return run, read


def tr_als(x, start, options):
    """Sweeps from the start that its seed draws: it takes no other, so the others are given the same."""
    drawn = tl.random.random_tr(x.shape, options["ranks"], random_state=options["seed"])
    if not all(np.array_equal(a, b) for a, b in zip(drawn, start, strict=True)):
        raise ValueError("its random start is another one than the others were given")

    def run():
        return tensor_ring_als(
            x,
            options["ranks"],
            ls_solve=options["solve"],
            n_iter_max=options["sweeps"],
            tol=0,
            random_state=options["seed"],
        )

    return run, lambda result: ("tr", list(result), None)


def hooi(x, start, options):
    """Sweeps from a start, or from HOSVD."""

    def run():
        init = (start[0].copy(), [factor.copy() for factor in start[1:]]) if start else "svd"
        return tucker(x, options["ranks"], init=init, tol=0, n_iter_max=options["sweeps"])

    return run, lambda result: ("tucker", [result[0], *result[1]], None)


class Datasets(Library):
    """It also ships tensors."""

    def datasets(self, *, folder: str) -> dict[str, Any]:
        """Writes them as .npy, NaN where an entry is missing; their names."""
        loaders = {
            "il2": tensorly.datasets.load_IL2data,
            "covid19": tensorly.datasets.load_covid19_serology,
            "kinetic": tensorly.datasets.load_kinetic,
            "indian_pines": tensorly.datasets.load_indian_pines,
        }
        for name, load in loaders.items():
            bunch = load()
            missing = bunch.get("missing_values_position", False)  # where the loader put zeros in their place
            np.save(Path(folder) / f"{name}.npy", np.where(missing, np.nan, np.asarray(bunch.tensor, dtype=float)))
        return {"names": list(loaders)}


serve(
    Datasets(
        ["tensorly", "numpy", "scipy"],
        {"cp_als": cp_als, "cp_fit": cp_fit, "tr_als": tr_als, "hooi": hooi},
        {"cp_als": cp_errors},
    )
)
