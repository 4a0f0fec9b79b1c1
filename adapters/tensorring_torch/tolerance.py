"""A whole network at a tolerance: every layer by itself, in the form that costs least within it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tensorring_torch.chain import Chain, Use, fitted
from tensorring_torch.checks import host_weight
from tensorring_torch.factored import OWNERS, factor_weights, factored_ranks
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import KINDS, canonical_weight
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Compressed, Cost, LayerReport, Progress, Report
from tensorring_torch.select import Candidate, Selection, candidates, owners
from tensorring_torch.trace import Shapes, calls_of, input_shapes, unbatched

_LEAST = {"macs": "fewest multiply-adds", "parameters": "fewest parameters", "time": "least estimated time"}
_UNCOUNTED = "multiply-adds of recurrent layers and attention are not counted"
_STORAGE = "storage shrinks, time does not: each call multiplies the factors first"


def to_tolerance(
    model: nn.Module,
    example_input: Any,
    *,
    tol: float,
    minimize: str,
    formats: tuple[str, ...],
    include: Selection = None,
    exclude: Selection = None,
    callback: Progress | None = None,
) -> Compressed:
    """‖weight − new weight‖ ≤ tol·‖weight‖ in every layer. See `compress`."""
    shapes = input_shapes(model, example_input)
    request = _Request(tol, minimize, formats, shapes)
    found = _found(model, shapes, include, exclude)
    done: list[tuple[nn.Module | None, LayerReport]] = []
    interrupted = False
    try:
        for candidate in found:
            done.append(request.considered(candidate))
            if callback is not None:
                callback(len(done), len(found), candidate.name)
    except KeyboardInterrupt:
        interrupted = True
    reports = [report for _, report in done]
    reports += [request.kept(rest, rest.reason or "interrupted before its turn") for rest in found[len(done) :]]
    changed = {report.name: module for module, report in done if module is not None}
    with torch.inference_mode(False):
        compressed = put(duplicate(model), changed)
    notes = [_UNCOUNTED] if any(isinstance(each.layer, OWNERS) for each in found) else []
    notes += [f"interrupted after {len(done)} of {len(found)} layers"] if interrupted else []
    before, after = (
        Cost(_parameters(network), sum(getattr(layer, when).multiply_adds for layer in reports))
        for network, when in ((model, "before"), (compressed, "after"))
    )
    return Compressed(compressed, Report(tuple(reports), before, after, tuple(notes), interrupted))


def _found(model: nn.Module, shapes: Shapes, include: Selection, exclude: Selection) -> list[Candidate]:
    """All that might be decomposed, in the order of the network; what is part of an owner goes with it."""
    holders = owners(model, include=include, exclude=exclude)
    held = {id(part) for holder in holders for part in holder.layer.modules()}
    layers = candidates(model, shapes, include=include, exclude=exclude)
    found = {each.name: each for each in (*holders, *(layer for layer in layers if id(layer.layer) not in held))}
    return [found[name] for name, _ in model.named_modules() if name in found]


@dataclass(frozen=True)
class _Request:
    tol: float
    minimize: str
    formats: tuple[str, ...]
    shapes: Shapes

    def considered(self, candidate: Candidate) -> tuple[nn.Module | None, LayerReport]:
        """What takes the place of a layer, or None where it stays, and what is to be said about it."""
        name, layer, reason = candidate
        if reason is None and self.minimize != "parameters" and isinstance(layer, (*OWNERS, nn.Embedding)):
            reason = "only its storage could shrink: minimize='parameters'"
        if reason is not None:
            return None, self.kept(candidate, reason)
        try:
            return self._factored(candidate) if isinstance(layer, OWNERS) else self._chained(candidate)
        except (TypeError, ValueError) as error:
            error.add_note(f"in layer {name!r}")
            raise

    def kept(self, candidate: Candidate, reason: str) -> LayerReport:
        """The report of a layer that stays as it is."""
        name, layer, _ = candidate
        work = 0
        if isinstance(layer, KINDS):
            use = self._use(name, layer)
            work = use.dense_plan.multiply_adds(use.calls)
        cost = Cost(_parameters(layer), work)
        return LayerReport(name, "dense", (), cost, cost, reason=reason)

    def _chained(self, candidate: Candidate) -> tuple[nn.Module | None, LayerReport]:
        """The cheapest chain of all formats, if it is cheaper than the layer."""
        name, layer, _ = candidate
        use = self._use(name, layer)
        kept = self.kept(candidate, f"no form costs less at tol={self.tol:g}")
        chains = list(self._chains(layer, use, unbatched=unbatched(use.geometry, self.shapes[name])))
        best = min(chains, key=lambda chain: use.cost(chain.plan), default=None)
        if best is None or use.cost(best.plan)[0] >= use.cost(use.dense_plan)[0]:
            return None, kept
        fewer = use.dense_plan.parameters - best.plan.parameters
        after = Cost(kept.before.parameters - fewer, best.plan.multiply_adds(use.calls))
        among = f" of {len(chains)} fits" if len(chains) > 1 else ""
        report = LayerReport(
            name,
            best.plan.form,
            best.plan.ranks,
            kept.before,
            after,
            best.error,
            degeneracy=best.degeneracy,
            reason=_LEAST[self.minimize] + among,
        )
        return best.layers(layer), report

    def _chains(self, layer: nn.Module, use: Use, *, unbatched: bool) -> Iterator[Chain]:
        weight = host_weight(canonical_weight(layer))
        for format in self.formats if use.geometry.kernel else self.formats[:1]:  # of a matrix all are the cut
            for chain in fitted(weight, use, format=format, tol=self.tol):
                # A folded bond needs a batch to ride in.
                if not unbatched or all(stage.riders == 1 for stage in chain.plan.stages):
                    yield chain

    def _factored(self, candidate: Candidate) -> tuple[nn.Module | None, LayerReport]:
        """The same module with its weights stored as products."""
        name, owner, _ = candidate
        small = factor_weights(owner, tol=self.tol)
        ranks = factored_ranks(small)
        if not ranks:
            return None, self.kept(candidate, f"no form costs less at tol={self.tol:g}")
        before, after = (Cost(_parameters(module), 0) for module in (owner, small))
        flat = tuple(rank for parts in ranks.values() for rank in parts.values())
        error = _relative_error(owner, small, ranks)
        return small, LayerReport(name, "factored weights", flat, before, after, error, reason=_STORAGE)

    def _use(self, name: str, layer: nn.Module) -> Use:
        geometry = Geometry.of(layer)
        return Use(geometry, calls_of(geometry, self.shapes.get(name, [])), self.minimize)


def _relative_error(owner: nn.Module, small: nn.Module, ranks: dict[str, dict[str, int]]) -> float:
    """Of all matrices together that became products."""
    missing, whole = [0.0], [0.0]
    with torch.no_grad():
        for part, name in ((part, name) for part, names in ranks.items() for name in names):
            old, new = (getattr(module.get_submodule(part), name) for module in (owner, small))
            wide = torch.promote_types(old.dtype, torch.float64)
            missing.append(float((new.to(wide) - old.to(wide)).norm()))
            whole.append(float(old.to(wide).norm()))
    return math.hypot(*missing) / (math.hypot(*whole) or 1.0)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
