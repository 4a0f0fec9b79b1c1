"""Measured latency: modules in turn on the same input, each kind once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tensorring_torch.replace import duplicate

_WARM_UP = 2


@dataclass(frozen=True, eq=False)
class Stopwatch:
    """Median seconds of a forward pass, on this machine, remembered for modules of one make.

    Parameters
    ----------
    precision
        Runs are added until the 95 % interval of each median is within this share of it.
    seconds
        But none is begun after so long a time in one call of `measure`.
    repeats
        And at least so many are made.
    clock
        Seconds, as `time.perf_counter` tells them.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> from tensorring_torch.latency import Stopwatch
    >>> conv = torch.nn.Conv2d(16, 16, 3)
    >>> layers = tgt.decompose_layer(conv, format="cut", ranks=4)
    >>> dense, ours = Stopwatch(seconds=0.1).measure([conv, layers], torch.zeros(1, 16, 8, 8))
    >>> dense > 0 and ours > 0
    True
    """

    precision: float = 0.03
    seconds: float = 1.0
    repeats: int = 9
    clock: Callable[[], float] = time.perf_counter
    known: dict[Hashable, float] = field(default_factory=dict, repr=False)

    def measure(self, modules: Sequence[nn.Module], inputs: Any) -> list[float]:
        """Seconds of each module in eval mode, without gradients; the modules themselves are not touched.

        Parameters
        ----------
        modules
            To be compared: they run in turn, forwards and backwards, so that drift of the machine touches all alike.
            The first one is the measure of the others: it runs again whenever one of these is new, and what drifted
            since it was first timed is divided out.
        inputs
            A tensor, a tuple or list of positional arguments, or a dict of keyword arguments, on the modules' device.

        Notes
        -----
        Modules with the same layers, shapes, layouts, dtypes and device count as one, whatever their numbers, for the
        same inputs and number of threads. A GPU is waited for after every run.
        """
        if not modules:
            return []
        args, kwargs = _arguments(inputs)
        made_for = (_signature((args, kwargs)), torch.get_num_threads())
        keys = [(_make(module), made_for) for module in modules]
        new = {key: module for key, module in zip(keys, modules, strict=True) if key not in self.known}
        if new:
            timed = {keys[0]: modules[0]} | new
            found = self._timed([duplicate(module).eval() for module in timed.values()], args, kwargs)
            drift = self.known.get(keys[0], found[0]) / found[0] if found[0] > 0 else 1.0
            self.known.update({key: drift * each for key, each in zip(timed, found, strict=True) if key in new})
        return [self.known[key] for key in keys]

    def _timed(self, modules: Sequence[nn.Module], args: Any, kwargs: Any) -> list[float]:
        """The medians of interleaved runs, as many as it takes."""
        devices = {part.device for module in modules for part in (*module.parameters(), *module.buffers())}
        devices |= {value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
        gpus = [device for device in devices if device.type == "cuda"]
        times: list[list[float]] = [[] for _ in modules]
        turns, end = list(zip(modules, times, strict=True)), self.clock() + self.seconds
        with torch.inference_mode():
            for turn in range(-_WARM_UP, 10**6):
                for module, kept in turns if turn % 2 else reversed(turns):
                    start = self._now(gpus)
                    module(*args, **kwargs)
                    passed = self._now(gpus) - start
                    if turn >= 0:
                        kept.append(passed)
                if turn + 1 >= self.repeats and (self.clock() > end or all(map(self._settled, times))):
                    break
        return [median(kept) for kept in times]

    def _now(self, gpus: Sequence[torch.device]) -> float:
        for gpu in gpus:
            torch.cuda.synchronize(gpu)
        return self.clock()

    def _settled(self, times: Sequence[float]) -> bool:
        """Whether the order statistics between which the median lies with 95 % are near enough."""
        count, ordered = len(times), sorted(times)
        low = math.floor((count - 1) / 2 - 0.98 * math.sqrt(count))
        return low >= 0 and ordered[count - 1 - low] - ordered[low] <= 2 * self.precision * median(ordered)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _make(module: nn.Module) -> Hashable:
    """What its speed depends on: layers as they are printed, and the tensors that they hold."""
    held = (*module.named_parameters(), *module.named_buffers())
    return repr(module), tuple((name, _signature(value)) for name, value in held)


def _signature(value: Any) -> Hashable:
    """Shapes, layouts, dtypes, devices; of what is no tensor, what it says of itself."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    if isinstance(value, tuple):
        return tuple(_signature(part) for part in value)
    if isinstance(value, dict):
        return tuple((name, _signature(part)) for name, part in value.items())
    return repr(value)
