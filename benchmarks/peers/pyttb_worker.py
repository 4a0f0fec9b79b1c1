"""pyttb: what it runs in each case."""

from __future__ import annotations

import contextlib
import io
import re

import pyttb as ttb
from serve import Library, serve


def _ktensor(start):
    return ttb.ktensor([factor.copy() for factor in start[1:]], start[0].copy())


def _read_cp(result):
    model = result[0]
    return "cp", [model.weights, *model.factor_matrices], None


def _read_tucker(model):
    return "tucker", [model.core.data, *model.factor_matrices], None


def cp_als(x, start, options):
    """Sweeps from a start, without a test of convergence."""
    tensor = ttb.tensor(x)

    def run():
        return ttb.cp_als(
            tensor, options["rank"], stoptol=0.0, maxiters=options["sweeps"], init=_ktensor(start), printitn=0
        )

    return run, _read_cp


def cp_errors(x, start, options):
    """The error after each sweep, from the fits it prints: nothing else tells them."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ttb.cp_als(ttb.tensor(x), options["rank"], stoptol=0.0, maxiters=options["sweeps"], init=_ktensor(start))
    return [1 - float(fit) for fit in re.findall(r"Iter \d+: f = (\S+)", printed.getvalue())]


def hooi(x, start, options):
    """Sweeps from a start."""
    tensor = ttb.tensor(x)

    def run():
        factors = [factor.copy() for factor in start[1:]] if start else "nvecs"
        return ttb.tucker_als(
            tensor, options["ranks"], stoptol=0.0, maxiters=options["sweeps"], init=factors, printitn=0
        )[0]

    return run, _read_tucker


def hosvd(x, start, options):
    """Sequentially truncated, at a tolerance."""
    tensor = ttb.tensor(x)
    return lambda: ttb.hosvd(tensor, options["tol"], verbosity=-1), _read_tucker


serve(
    Library(
        ["pyttb", "numpy", "scipy"],
        {"cp_als": cp_als, "hooi": hooi, "tucker_hosvd": hosvd},
        {"cp_als": cp_errors},
    )
)
