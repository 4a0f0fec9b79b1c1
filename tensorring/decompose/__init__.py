"""Layer 5: decompositions, one algorithm a file. A tensor goes in, a `Decomposition` comes out."""

from tensorring.decompose.direct.cut_svd import cut_svd
from tensorring.decompose.direct.tr_reduced_storage import tr_reduced_storage
from tensorring.decompose.direct.tr_svd import tr_svd
from tensorring.decompose.direct.tt_svd import tt_svd
from tensorring.decompose.direct.tucker_hosvd import tucker_hosvd
from tensorring.decompose.iterative.btd_als import btd_als
from tensorring.decompose.iterative.cp_als import cp_als
from tensorring.decompose.iterative.cp_lm import cp_lm
from tensorring.decompose.iterative.tr_als import tr_als
from tensorring.decompose.iterative.tt_als import tt_als
from tensorring.decompose.iterative.tucker_hooi import tucker_hooi
from tensorring.decompose.stable.cp_stable import cp_stable
from tensorring.decompose.stable.stabilize import stabilize
from tensorring.decompose.stable.tr_stable import tr_stable

__all__ = [
    "btd_als", "cp_als", "cp_lm", "cp_stable", "cut_svd", "stabilize", "tr_als", "tr_reduced_storage", "tr_stable",
    "tr_svd", "tt_als", "tt_svd", "tucker_hooi", "tucker_hosvd",
]  # fmt: skip
