"""How far the ranks of a chain are lowered in one round: MUSCO's rule, by variational Bayes."""

from __future__ import annotations

import numpy as np

import tensorring as tg
from tensorring_torch.forms import cut
from tensorring_torch.forms.tr import Caps
from tensorring_torch.plan import Plan


def weakened(plan: Plan, weight: np.ndarray, factor: float) -> Caps:
    """R − w·(R − R_vbmf) for each rank of a chain."""
    parts, order = np.split(weight, plan.blocks), weight.ndim

    def left(modes: tuple[int, ...]) -> float:
        """What part of the rank of an unfolding stays: one for all blocks."""
        return 1 - factor * (1 - max(_share(part, modes) for part in parts))

    cuts = {f"cut{modes}": modes for modes in cut.modes(order)}
    shares = [left(modes) for modes in ([cuts[plan.form]] if plan.form in cuts else [(cut.OUTPUT,), (cut.INPUT,)])]
    own = _own_ranks(plan, order)
    if len(own) != len(shares):
        shares = [max(shares)] * len(own)
    caps = tuple(max(1, round(rank * share)) for rank, share in zip(own, shares, strict=True))
    return caps if len(caps) > 1 else caps[0]


def _own_ranks(plan: Plan, order: int) -> tuple[int, ...]:
    """The ranks of a chain as its form takes caps."""
    ranks = plan.ranks
    if plan.form == "tt":  # a ring of (O, I, *size) that begins at I; what was built of someone's train begins at O
        return (*ranks[2:], ranks[0]) if len(ranks) == order else (max(ranks),) * (order - 1)
    return ranks[: {"tucker": 2, "btd": 3}.get(plan.form, len(ranks))]


def _share(part: np.ndarray, modes: tuple[int, ...]) -> float:
    """R_vbmf/R of the unfolding along some modes, the channels in orthonormal bases of what they span."""
    core = tg.tucker_hosvd(part, tol=0.0, modes=(cut.OUTPUT, cut.INPUT)).tensor.core
    others = tuple(mode for mode in range(part.ndim) if mode not in modes)
    rows = tg.cut_svd(core, modes=others, tol=0.0).tensor.left
    rank = rows.shape[-1]
    return float(tg.vbmf_rank(rows.reshape(-1, rank)) / rank)
