"""tensorring, asked in the same way as the others."""

from __future__ import annotations

from serve import Library, serve

import tensorring as tg


def _read(result):
    t = result.tensor
    return {"tt": "tr"}.get(t.format, t.format), list(t.arrays), len(result.errors) or None


def _sweeps(options):
    return {"stall": 0, "max_sweeps": options["sweeps"]}


def _cp(start):
    return tg.CPTensor(start[0], tuple(start[1:]))


def cp_als(x, start, options):
    """Sweeps from a start."""
    init = _cp(start)
    return lambda: tg.cp_als(x, rank=options["rank"], init=init, **_sweeps(options)), _read


def cp_lm(x, start, options):
    """Damped Gauss-Newton steps from a start."""
    init = _cp(start)
    return lambda: tg.cp_lm(x, rank=options["rank"], init=init, **_sweeps(options)), _read


def cp_fit(x, start, options):
    """As a user calls it: from its own start, until it converges."""
    control = {"stall": options["stall"]} if "stall" in options else {}
    return lambda: tg.cp_als(x, rank=options["rank"], **control), _read


def tr_als(x, start, options):
    """Sweeps from a start."""
    init = tg.TRTensor(tuple(start))
    return lambda: tg.tr_als(x, ranks=options["ranks"], init=init, **_sweeps(options)), _read


def hooi(x, start, options):
    """Sweeps from a start."""
    init = {"init": tg.TuckerTensor(start[0], tuple(start[1:]))} if start else {}
    return lambda: tg.tucker_hooi(x, ranks=options["ranks"], **init, **_sweeps(options)), _read


def direct(name):
    """A direct method at a tolerance."""
    return lambda x, start, options: (lambda: getattr(tg, name)(x, tol=options["tol"]), _read)


def errors(fn):
    """The error after each sweep of an iterative method."""
    return lambda x, start, options: list(fn(x, start, options)[0]().errors)


NEEDS = {
    cp_als: "cp_als",
    cp_lm: "cp_lm",
    cp_fit: "cp_als",
    tr_als: "tr_als",
    hooi: "tucker_hooi",
}
cases = {case.__name__: case for case, needed in NEEDS.items() if hasattr(tg, needed)}
cases |= {name: direct(name) for name in ("tt_svd", "tucker_hosvd")}
serve(
    Library(
        ["tensorring", "numpy", "scipy", "numba"],
        cases,
        {name: errors(cases[name]) for name in ("cp_als", "cp_lm") if name in cases},
    )
)
