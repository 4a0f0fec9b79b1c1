"""Layer 5: decompositions, one algorithm a file. A tensor goes in, a `Decomposition` comes out."""

from tensorring.decompose.direct.cut_svd import cut_svd
from tensorring.decompose.direct.tr_reduced_storage import tr_reduced_storage
from tensorring.decompose.direct.tr_svd import tr_svd
from tensorring.decompose.direct.tt_svd import tt_svd
from tensorring.decompose.direct.tucker_hosvd import tucker_hosvd
from tensorring.decompose.iterative.cp_als import cp_als
from tensorring.decompose.iterative.cp_lm import cp_lm
from tensorring.decompose.iterative.tr_als import tr_als
from tensorring.decompose.iterative.tt_als import tt_als
from tensorring.decompose.iterative.tucker_hooi import tucker_hooi

__all__ = [
    "cp_als", "cp_lm", "cut_svd", "tr_als", "tr_reduced_storage", "tr_svd", "tt_als", "tt_svd", "tucker_hooi",
    "tucker_hosvd",
]  # fmt: skip
