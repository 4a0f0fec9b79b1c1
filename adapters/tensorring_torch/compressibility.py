"""What truncation does to a network: each cut of each kernel alone, its norm against the network's score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

import tensorring as tg
from tensorring_torch.checks import check_model, host_weight
from tensorring_torch.cut_report import Compressibility, CutReport, Truncation, cut_name
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import canonical_weight, layer_of
from tensorring_torch.modules import to_torch
from tensorring_torch.replace import duplicate
from tensorring_torch.report import Progress
from tensorring_torch.score import Evaluate, score_of
from tensorring_torch.select import Candidate, Selection, candidates

LOSSES = (0.1, 0.3, 0.5, 0.7, 0.9)


def compressibility(
    model: nn.Module,
    *,
    evaluate: Evaluate | None = None,
    losses: Iterable[float] = LOSSES,
    include: Selection = None,
    exclude: Selection = None,
    callback: Progress | None = None,
) -> Compressibility:
    """σ of every cut of every kernel, the rank at each ‖weight − truncated‖/‖weight‖ ≤ loss, and what the score says.

    Parameters
    ----------
    model
        Any nn.Module; it is not changed.
    evaluate
        `evaluate(network)` is the score of a network, higher is better, such as its agreement with `model` on images
        that are used for nothing else. It is called with a copy in eval mode in which one weight is truncated along one
        cut, dense as before: for each loss that leads to a rank of its own, and once for the network as it is.
    losses
        The relative errors to look at, each in [0, 1).
    include, exclude
        Which layers, as in `compress`.
    callback
        `callback(done, total, "layer cut")` after each cut.

    Returns
    -------
    Compressibility
        `.cuts`, one `CutReport` each, which print as a table; `.to_markdown()`, `.to_dict()` and `.plot()`. A kernel of
        two axes has seven cuts (four single modes, three pairs), one of one axis three, one of three axes fifteen, a
        matrix one. Ctrl-C returns the cuts done so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range, no layer of the model can be truncated, a weight holds NaN or
        inf (a note names the layer), or `evaluate` returns no number.

    Notes
    -----
    Looks at convolutions, transposed ones, nn.Linear and nn.Embedding whose weight is their own; a kernel with groups
    is taken as one, of shape (O, I/groups, *kernel). Cost: a factorisation for each cut and each rank, and the calls of
    `evaluate`, about 7·len(losses) a layer. A truncation is the nearest in the Frobenius norm; how far outputs move is
    for `evaluate` to say. Scores of cuts taken alone do not tell what all of them together do.

    References
    ----------
    S. Singh, S. S. Jahromi, R. Orús 2024, "Tensor network compressibility of convolutional models", arXiv 2403.14379.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> found = tgt.compressibility(torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 4)), losses=[0.2])
    >>> [(cut.layer, cut.name, len(cut.spectrum.values)) for cut in found.cuts]
    [('0', 'O | I', 6), ('1', 'O | I', 4)]
    """
    check_model(model)
    asked = _checked_losses(losses)
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"got evaluate={evaluate!r}; it is a function that takes a network and returns its score")
    found, notes = _found(model, include, exclude)
    study = _Study(duplicate(model).eval(), evaluate, asked)
    total = sum(2 ** (canonical_weight(each.layer).ndim - 1) - 1 for each in found)
    cuts: list[CutReport] = []
    interrupted = False
    try:
        study.begin()
        for cut in (cut for each in found for cut in study.cuts(each.name)):
            cuts.append(cut)
            if callback is not None:
                callback(len(cuts), total, f"{cut.layer} {cut.name}")
    except KeyboardInterrupt:
        interrupted = True
        notes.append(f"interrupted after {len(cuts)} of {total} cuts")
    if study.score is not None:
        notes.append(f"the network as it is scores {study.score:.6g}")
    return Compressibility(tuple(cuts), study.score, tuple(notes), interrupted)


class _Study:
    """A copy of the network in eval mode, in which one weight at a time is exchanged."""

    def __init__(self, network: nn.Module, evaluate: Evaluate | None, losses: tuple[float, ...]) -> None:
        self._network, self._evaluate, self._losses = network, evaluate, losses
        self.score: float | None = None

    def begin(self) -> None:
        """The score of the network as it is."""
        if self._evaluate is not None:
            self.score = score_of(self._evaluate, self._network, "the network as it is")

    def cuts(self, name: str) -> Iterator[CutReport]:
        """All cuts of the kernel of one layer."""
        weight = host_weight(canonical_weight(self._network.get_submodule(name)))
        try:
            spectra = tg.cut_spectra(weight)
        except (TypeError, ValueError) as error:
            error.add_note(f"in layer {name!r}")
            raise
        for modes, spectrum in spectra.items():
            # Where the rank is full nothing is truncated.
            scores = {len(spectrum.values): self.score}
            if self._evaluate is not None:
                for rank in {spectrum.rank(asked) for asked in self._losses} - scores.keys():
                    named = f"{name!r} of rank {rank} along {cut_name(modes, weight.ndim)}"
                    tensor = tg.cut_svd(weight, modes=modes, ranks=rank).tensor
                    scores[rank] = self._scored(self._evaluate, name, tensor, named)
            truncations = (self._truncation(asked, weight.shape, modes, spectrum, scores) for asked in self._losses)
            yield CutReport(name, weight.shape, modes, spectrum, tuple(truncations))

    @staticmethod
    def _truncation(
        asked: float,
        shape: tuple[int, ...],
        modes: tuple[int, ...],
        spectrum: tg.CutSpectrum,
        scores: Mapping[int, float | None],
    ) -> Truncation:
        rank, rows = spectrum.rank(asked), math.prod(shape[k] for k in modes)
        stored = rank * (rows + math.prod(shape) // rows)
        return Truncation(asked, rank, float(spectrum.errors[rank]), stored, scores.get(rank))

    def _scored(self, evaluate: Evaluate, name: str, tensor: tg.CutTensor, named: str) -> float:
        """The score with a tensor for the weight of one layer; the weight that was there is put back."""
        layer: Any = self._network.get_submodule(name)
        kept = layer.weight
        with torch.inference_mode(False):
            weight = to_torch(tensor.to_dense()).to(kept)
            layer.weight = layer_of(Geometry.of(layer), weight, None, trained=kept.requires_grad).weight
        try:
            return score_of(evaluate, self._network, named)
        finally:
            layer.weight = kept


def _found(model: nn.Module, include: Selection, exclude: Selection) -> tuple[list[Candidate], list[str]]:
    """The layers whose weight is their own to exchange, and a note on each of the others."""
    called: dict[str, list[torch.Size]] = {name: [] for name, _ in model.named_modules()}  # weights alone count here
    every = candidates(model, called, include=include, exclude=exclude)
    notes = [f"{name or '(model)'} is left out: {reason}" for name, _, reason in every if reason is not None]
    found = [each for each in every if each.reason is None]
    if not found:
        why = "; ".join(notes) or "it has no convolution, linear layer or embedding"
        raise ValueError(f"got a {type(model).__name__} in which no weight can be truncated: {why}")
    return found, notes


def _checked_losses(losses: Any) -> tuple[float, ...]:
    """Ascending, all different."""
    given = [losses] if isinstance(losses, (str, Real)) else list(losses)
    if not given or not all(isinstance(loss, Real) and 0 <= float(loss) < 1 for loss in given):
        raise ValueError(f"got losses={losses!r}; they are relative errors, each in [0, 1): (0.1, 0.3, 0.5)")
    return tuple(sorted({float(loss) for loss in given}))
