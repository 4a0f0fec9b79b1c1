"""tensorring: tensor decompositions whose error bound is kept."""

from tensorring import random
from tensorring.algebra import inner, norm, relative_error
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
    # with what you have
    "inner", "norm", "relative_error",
]  # fmt: skip
