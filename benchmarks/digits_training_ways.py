"""The ways of `benchmarks.digits_training` to a small network, and the settings that are tried for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import tensorring_torch as tgt
import torch
from torch import Tensor, nn

from benchmarks.digits_training_networks import Settings, Study
from benchmarks.networks import parameters

RATIOS = (2, 4, 8, 16)
# Halvings of the interval in which a tolerance lies.
HALVINGS = 12


class Made(NamedTuple):
    """A network, the row and the ratio it is for (None: whatever comes out), what it was cut from, and at which tol."""

    row: str
    ratio: float | None
    model: nn.Module
    before: nn.Module
    tol: float | None = None


class Bench:
    """A network of one seed: how it is trained, and what several rows begin with, made once."""

    def __init__(self, study: Study, seed: int, best: Settings) -> None:
        """`best` is what the dense network is trained with that others begin with."""
        self.study, self.case, self.seed, self.best = study, study.case, seed, best
        self._dense: dict[tuple[Any, ...], nn.Module] = {}
        self._fitted: dict[float, nn.Module] = {}

    def start(self) -> nn.Module:
        """With its first weights."""
        torch.manual_seed(self.seed)
        return self.case.make()

    def trained(self, model: nn.Module, teacher: nn.Module | None = None, **settings: Any) -> nn.Module:
        """By labels, and by agreement with a teacher where there is one; for all epochs unless told."""
        data = self.case.x[: self.case.training], self.case.y[: self.case.training]
        recipe = {"epochs": self.case.epochs, **self.study.recipe, **settings}
        result = tgt.fine_tune(model, teacher, data, validation=0, seed=self.seed, **recipe)
        if result.stop == "interrupted":
            raise KeyboardInterrupt
        return result.model.eval()

    def tuned(self, model: nn.Module, teacher: nn.Module) -> nn.Module:
        """A third of the epochs more, at half the lowest rate and with the default decay: none of it is chosen."""
        return self.trained(model, teacher, epochs=max(1, self.case.epochs // 3), lr=self.study.rates[0] / 2)

    def dense(self, settings: Settings) -> nn.Module:
        """With its own layers."""
        key = tuple(sorted(settings.items()))
        if key not in self._dense:
            self._dense[key] = self.trained(self.start(), **settings)
        return self._dense[key]

    def fitted(self, ratio: float) -> nn.Module:
        """The best dense network, compressed with the training images at hand, without their labels."""
        if ratio not in self._fitted:
            images = self.case.x[: self.case.training]
            self._fitted[ratio] = self.compressed(self.dense(self.best), ratio, calibration=images)
        return self._fitted[ratio]

    def compressed(self, model: nn.Module, ratio: float, **options: Any) -> nn.Module:
        """By `compress`, within a budget of parameters of this network."""
        return tgt.compress(model, self.case.x[:4], budget=tgt.Budget(parameters=1 / ratio), **options).model.eval()

    def cuts(self, row: str, whole: nn.Module, ratios: Sequence[float]) -> Iterator[Made]:
        """A dense network cut twice: with one tol for all layers, and with ranks by `compress`."""
        for ratio in ratios:
            model, tol = folded(tgt.expand(whole), parameters(whole) / ratio)
            yield Made(row, ratio, model, whole, tol)
            yield Made(f"{row}, by budget", ratio, self.compressed(whole, ratio, formats="cut"), whole)


def folded(wide: nn.Module, most: float) -> tuple[nn.Module, float]:
    """With the least tol, one for all layers, at which `fold` leaves at most so many parameters; and that tol."""
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        model = tgt.fold(wide, tol=middle).model.eval()
        if parameters(model) <= most:
            high, best = middle, model
        else:
            low = middle
    if best is None:
        raise ValueError(f"got most={most:g}, out of reach: {parameters(model):,} parameters are left at tol={low:g}")
    return best, high


def merged(wide: nn.Module) -> nn.Module:
    """The dense network that an expanded one stands for."""
    return tgt.fold(wide, ranks={}).model


Way = Callable[[Bench, Settings, Sequence[Any]], Iterator[Made]]


def dense(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """As it is."""
    model = bench.dense(settings)
    yield Made("dense", 1, model, model)


def plain(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """The best dense network cut, and in the forms that `compress` chooses by itself, without data."""
    model = bench.dense(bench.best)
    yield from bench.cuts("plain", model, ratios)
    for ratio in ratios:
        yield Made("plain, any form", ratio, bench.compressed(model, ratio), model)


def decayed(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """A dense network whose rate and decay were chosen for how well it is cut, cut."""
    yield from bench.cuts("decayed", bench.dense(settings), ratios)


def expanded(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """Each layer a product while it is trained, then cut."""
    factors = settings["factors"]
    rest = {name: value for name, value in settings.items() if name != "factors"}
    yield from bench.cuts("expanded", merged(bench.trained(tgt.expand(bench.start(), factors), **rest)), ratios)


def orthogonal(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """Outer factors held near orthonormal, ranks by VBMF, then trained on with the large network for a teacher."""

    def penalty(model: nn.Module) -> Tensor:
        return settings["penalty"] * tgt.orthogonality_penalty(model)

    wide = tgt.expand(bench.start(), 3, exclude=bench.study.head)
    rates = {name: settings[name] for name in ("lr", "weight_decay")}
    wide = bench.trained(wide, penalty=penalty, **rates)
    small = tgt.fold(wide, ranks="vbmf").model
    yield Made("orthogonal", None, small, merged(wide))
    yield Made("orthogonal, trained on", None, bench.tuned(small, wide), merged(wide))


def ring(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """Rings, and of matrices products, from the first step."""
    for ratio in ratios:
        budget = tgt.Budget(parameters=1 / ratio)
        small = tgt.factorize_like(bench.start(), bench.case.x[:4], budget=budget, seed=bench.seed).model
        model = bench.trained(small, **settings)
        yield Made("ring", ratio, model, model)


def aware(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """The dense network compressed with images at hand."""
    for ratio in ratios:
        yield Made("aware", ratio, bench.fitted(ratio), bench.dense(bench.best))


def tuned(bench: Bench, settings: Settings, ratios: Sequence[Any]) -> Iterator[Made]:
    """And trained on, with the dense network for a teacher."""
    for ratio in ratios:
        teacher = bench.dense(bench.best)
        yield Made("tuned", ratio, bench.tuned(bench.fitted(ratio), teacher), teacher)


# `dense` first: others begin with its network.
WAYS: dict[str, Way] = {way.__name__: way for way in (dense, ring, decayed, expanded, orthogonal, plain, aware, tuned)}


def asked(way: str) -> tuple[Any, ...]:
    """The ratios that a way is asked for."""
    return {"dense": (1,), "orthogonal": (None,)}.get(way, RATIOS)


def tried(study: Study, way: str) -> list[dict[str, Any]]:
    """All settings of a way that are compared; an empty one where there is no choice."""
    top = study.rates[0]
    both = {"lr": study.rates, "weight_decay": study.decays}
    grids: dict[str, dict[str, tuple[Any, ...]]] = {
        "dense": both,
        "decayed": both,
        "ring": {"lr": (2 * top, 4 * top), "weight_decay": study.decays[:1]},
        "expanded": {"factors": (2, 3), **both},
        "orthogonal": {"penalty": (1e-3, 1e-2), "lr": (top,), "weight_decay": study.decays[:2]},
    }
    grid = grids.get(way, {})
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
