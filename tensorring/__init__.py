"""tensorring: tensor decompositions whose error bound is kept."""

from tensorring import random
from tensorring.algebra import inner, norm, relative_error
from tensorring.compress import compress
from tensorring.decompose import (
    cp_als,
    cp_lm,
    cut_svd,
    tr_als,
    tr_reduced_storage,
    tr_svd,
    tt_als,
    tt_svd,
    tucker_hooi,
    tucker_hosvd,
)
from tensorring.io import load, save
from tensorring.progress import progress
from tensorring.tensors import (
    Candidate,
    CPTensor,
    CutTensor,
    Decomposition,
    LowRankTensor,
    Stop,
    TRTensor,
    TTTensor,
    TuckerTensor,
)

__all__ = [
    # low-rank tensors
    "CPTensor", "CutTensor", "LowRankTensor", "TRTensor", "TTTensor", "TuckerTensor", "random",
    # results
    "Candidate", "Decomposition", "Stop",
    # direct decompositions
    "compress", "cut_svd", "tr_reduced_storage", "tr_svd", "tt_svd", "tucker_hosvd",
    # iterative decompositions
    "cp_als", "cp_lm", "progress", "tr_als", "tt_als", "tucker_hooi",
    # with what you have
    "inner", "norm", "relative_error",
    # files
    "load", "save",
]  # fmt: skip
