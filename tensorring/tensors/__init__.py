"""Layer 3: low-rank tensors, small frozen objects that hold a few arrays, and the result of a decomposition."""

from tensorring.tensors.block_term import BlockTermTensor
from tensorring.tensors.cp import CPTensor
from tensorring.tensors.cut import CutTensor
from tensorring.tensors.low_rank import LowRankTensor
from tensorring.tensors.result import Candidate, Decomposition, Stop
from tensorring.tensors.tr import TRTensor
from tensorring.tensors.tt import TTTensor
from tensorring.tensors.tucker import TuckerTensor

__all__ = [
    "BlockTermTensor",
    "CPTensor",
    "Candidate",
    "CutTensor",
    "Decomposition",
    "LowRankTensor",
    "Stop",
    "TRTensor",
    "TTTensor",
    "TuckerTensor",
]
