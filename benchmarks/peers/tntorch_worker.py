"""tntorch: TT-SVD and HOSVD at a tolerance, by SVDs (its default) or by eigenvalues of Gram matrices."""

from __future__ import annotations

import tntorch
import torch
from serve import Library, serve


def tt_svd(x, start, options):
    """The dense tensor as a train of full ranks, then rounded."""
    tensor = torch.from_numpy(x)

    def run():
        t = tntorch.Tensor(tensor)
        t.round_tt(options["tol"], algorithm=options["algorithm"])
        return t

    return run, lambda t: ("tr", [core.numpy() for core in t.cores], None)


serve(Library(["tntorch", "torch", "numpy"], {"tt_svd": tt_svd}))
