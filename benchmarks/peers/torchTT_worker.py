"""torchTT: TT-SVD at a tolerance."""

from __future__ import annotations

import torch
import torchtt
from serve import Library, serve


def tt_svd(x, start, options):
    """Its constructor."""
    tensor = torch.from_numpy(x)
    return lambda: torchtt.TT(tensor, eps=options["tol"]), lambda t: ("tr", [core.numpy() for core in t.cores], None)


serve(Library(["torchTT", "torch", "numpy"], {"tt_svd": tt_svd}))
