"""Which layers of a network are to be decomposed, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from tensorring_torch.attention import Attention
from tensorring_torch.checks import is_quantised, obstacle
from tensorring_torch.factored import OWNERS, obstacle_to_factors
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import KINDS
from tensorring_torch.layer import plan_of
from tensorring_torch.replace import tied_modules
from tensorring_torch.trace import Shapes

Selector = str | type[nn.Module]
Selection = Selector | list[Selector] | tuple[Selector, ...] | set[Selector] | None

_TIED = "tied: it stands at several places"


class Candidate(NamedTuple):
    """A layer of a kind that can be decomposed; the reason if it stays dense, else None."""

    name: str
    layer: nn.Module
    reason: str | None


def candidates(
    model: nn.Module, shapes: Shapes, *, include: Selection = None, exclude: Selection = None
) -> list[Candidate]:
    """All convolutions, linear layers and embeddings of a network, in its order, and why some stay dense.

    Parameters
    ----------
    model
        The network.
    shapes
        What `input_shapes` found.
    include, exclude
        Name patterns as in `fnmatch` ("encoder.*", "*.conv1"), types of modules, or a list, tuple or set of both. What
        matches a module stands for everything in it. `exclude` wins; `include=None` means everything.

    Returns
    -------
    list[Candidate]
        Modules that stand at several places appear once.

    Raises
    ------
    TypeError
        If a selector is neither a string nor a type of modules.
    ValueError
        If a selector matches no module of the network: most likely it is misspelt.
    """
    inside, outside = _selected(model, include, exclude)
    fixed = dict(_fixed(model))
    return [
        Candidate(name, layer, next(_reasons(name, layer, shapes, inside, outside, fixed), None))
        for name, layer in model.named_modules()
        if isinstance(layer, KINDS) or is_quantised(layer)
    ]


def owners(model: nn.Module, *, include: Selection = None, exclude: Selection = None) -> list[Candidate]:
    """All recurrent layers, cells and attentions, whose weights may be stored as products, and why some stay dense.

    Selections are those of `candidates`.
    """
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, OWNERS))
    return list(_judged(model, found, include, exclude, obstacle_to_factors))


def chains(model: nn.Module, *, include: Selection = None, exclude: Selection = None) -> list[Candidate]:
    """All layers that are chains already, and why some stay as they are. Selections are those of `candidates`."""
    found = ((name, module) for name, module in model.named_modules() if plan_of(module) is not None)
    return list(_judged(model, found, include, exclude, lambda _: None))


def _judged(
    model: nn.Module,
    found: Iterable[tuple[str, nn.Module]],
    include: Selection,
    exclude: Selection,
    obstacle_to: Callable[[nn.Module], str | None],
) -> Iterator[Candidate]:
    """Modules that are changed as a whole, with all that they hold."""
    inside, outside = _selected(model, include, exclude)
    tied = tied_modules(model)
    for name, module in found:
        shared = _TIED if any(id(part) in tied for part in module.modules()) else None
        yield Candidate(name, module, next(_unselected(module, inside, outside), shared or obstacle_to(module)))


def _reasons(
    name: str, layer: nn.Module, shapes: Shapes, inside: set[int] | None, outside: set[int], fixed: dict[int, str]
) -> Iterator[str]:
    """The first is what is told."""
    yield from _unselected(layer, inside, outside)
    if id(layer) in fixed:
        yield fixed[id(layer)]
    reason = obstacle(layer)
    if reason is not None:
        yield reason
    geometry = Geometry.of(layer)
    if geometry.groups == geometry.in_channels > 1:
        yield "depthwise: there are no input channels to compress"
    if name not in shapes:
        yield "the forward pass does not call it with an input alone"


def _unselected(module: nn.Module, inside: set[int] | None, outside: set[int]) -> Iterator[str]:
    if id(module) in outside:
        yield "excluded"
    if inside is not None and id(module) not in inside:
        yield "not included"


def _fixed(model: nn.Module) -> Iterator[tuple[int, str]]:
    """Layers that others rely on as they are. (Of several reasons the last one counts.)"""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            yield from ((id(part), "nn.MultiheadAttention reads its weight itself") for part in module.modules())
    yield from ((layer, _TIED) for layer in tied_modules(model))
    for module in model.modules():
        if plan_of(module) is not None:
            yield from ((id(part), "already part of a chain") for part in module.modules())


def _selected(model: nn.Module, include: Selection, exclude: Selection) -> tuple[set[int] | None, set[int]]:
    """The ids of all modules that may be changed, None if all may, and of those that must not."""
    inside = None if include is None else _matching(model, _selectors(include, "include"), "include")
    return inside, _matching(model, _selectors(exclude, "exclude"), "exclude")


def _selectors(selection: Selection, option: str) -> tuple[Selector, ...]:
    if selection is None:
        return ()
    selectors = tuple(selection) if isinstance(selection, (list, tuple, set)) else (selection,)
    for selector in selectors:
        if not isinstance(selector, str) and not (isinstance(selector, type) and issubclass(selector, nn.Module)):
            raise TypeError(f"got {option}={selector!r}; it takes name patterns and types of nn.Module")
    return selectors


def _matching(model: nn.Module, selectors: Sequence[Selector], option: str) -> set[int]:
    """The ids of all modules that selectors match, and of everything in them."""
    matched: set[int] = set()
    for selector in selectors:
        found = [module for name, module in _named(model) if _matches(selector, name, module)]
        if not found:
            known = ", ".join(repr(name) for name, module in _named(model) if isinstance(module, (*KINDS, *OWNERS)))
            raise ValueError(f"got {option}={selector!r}, which matches no module; the layers are {known or 'none'}")
        matched.update(id(part) for module in found for part in module.modules())
    return matched


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules under all of their names."""
    yield from model.named_modules(remove_duplicate=False)


def _matches(selector: Selector, name: str, module: nn.Module) -> bool:
    if isinstance(selector, str):
        return fnmatchcase(name, selector)
    opened = isinstance(module, Attention) and issubclass(nn.MultiheadAttention, selector)
    return opened or isinstance(module, selector)
