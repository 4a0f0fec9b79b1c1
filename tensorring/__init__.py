"""tensorring: tensor decompositions whose error bound is kept."""

from tensorring import random
from tensorring.algebra import balance, inner, norm, relative_error, retarget
from tensorring.allocate import Allocation, BudgetError, allocate
from tensorring.compress import compress
from tensorring.decompose import (
    btd_als,
    cp_als,
    cp_lm,
    cp_stable,
    cut_svd,
    stabilize,
    tr_als,
    tr_reduced_storage,
    tr_stable,
    tr_svd,
    tt_als,
    tt_svd,
    tucker_hooi,
    tucker_hosvd,
)
from tensorring.diagnostics import (
    CutSpectrum,
    Degeneracy,
    FactorMatch,
    core_consistency,
    cut_spectra,
    degeneracy,
    factor_match,
    sensitivity,
)
from tensorring.io import load, save
from tensorring.progress import progress
from tensorring.ranks import estimate_ranks, vbmf_rank
from tensorring.tensors import (
    BlockTermTensor,
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
    "BlockTermTensor", "CPTensor", "CutTensor", "LowRankTensor", "TRTensor", "TTTensor", "TuckerTensor", "random",
    # results
    "Candidate", "Decomposition", "Stop",
    # direct decompositions
    "compress", "cut_svd", "tr_reduced_storage", "tr_svd", "tt_svd", "tucker_hosvd",
    # iterative decompositions
    "btd_als", "cp_als", "cp_lm", "cp_stable", "progress", "stabilize", "tr_als", "tr_stable", "tt_als", "tucker_hooi",
    # with what you have
    "balance", "inner", "norm", "relative_error", "retarget",
    # what is wrong with it, if anything is
    "CutSpectrum", "Degeneracy", "FactorMatch", "core_consistency", "cut_spectra", "degeneracy", "factor_match",
    "sensitivity",
    # how large it should be
    "estimate_ranks", "vbmf_rank",
    # one point on each of many curves
    "Allocation", "BudgetError", "allocate",
    # files
    "load", "save",
]  # fmt: skip
