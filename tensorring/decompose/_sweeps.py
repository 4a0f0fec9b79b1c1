"""The one loop of every iterative method: when it ends, who watches, and what an interrupt leaves."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from tensorring._threads import blas_threads, close_pool, pool_for
from tensorring.decompose._arguments import Problem
from tensorring.tensors.low_rank import LowRankTensor
from tensorring.tensors.result import Candidate, Decomposition, Stop

State = TypeVar("State")
Callback = Callable[[int, float], object]
# A start: its state, and an iterator that yields the state and its relative error after each sweep.
Sweeps = Iterable[tuple[State, float]]
Start = Callable[[], tuple[State, Sweeps[State]]]


@dataclass(eq=False)
class Run(Generic[State]):
    """Where a start stands. It changes only between sweeps, so what an interrupt leaves is whole."""

    state: State
    errors: list[float] = field(default_factory=list)
    stop: Stop | None = None
    exact: bool = False

    @property
    def error(self) -> float:
        """The relative error of the state; infinite before the first sweep."""
        return self.errors[-1] if self.errors else math.inf


class Limits(NamedTuple):
    """When sweeps end that reach nothing: the change of the error that counts as none, and their number."""

    stall: float
    max_sweeps: int


class Control(Generic[State]):
    """When sweeps end: the tolerance is kept, the error stalls, sweeps are used up, or somebody says so.

    Parameters
    ----------
    problem
        The tensor, and the tolerance.
    stall, max_sweeps, callback
        As the user gave them; checked here.
    exact
        (state, error told) -> relative error, right to the error floor: from the residual itself unless what was told
        is as good. What the sweeps tell may be an estimate that is right to rounding over the error; a tolerance counts
        as kept only when this one says so, and it is what is returned.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        stall: float,
        max_sweeps: int,
        callback: Callback | None,
        exact: Callable[[State, float], float],
    ) -> None:
        self.problem, self.exact = problem, exact
        self.limits = Limits(checked_stall(stall), checked_count(max_sweeps, "max_sweeps"))
        self._callback = checked_callback(callback)
        self._lock, self._count, self._least = threading.Lock(), 0, math.inf
        self._ended: Stop | None = None
        self._stopping = False

    def drive(
        self, sweeps: Sweeps[State], run: Run[State], *, search: bool = False, limits: Limits | None = None
    ) -> Run[State]:
        """Sweeps until one of the reasons to stop holds; the run keeps the best state.

        With `search` the sweeps look for something else than the least error: they end by themselves, and every state
        they yield is at least as good as the one before. Sweeps that end may say why: they return a `Stop`.
        """
        steps = iter(sweeps)
        try:
            while run.stop is None:
                try:
                    state, error = next(steps)
                except StopIteration as end:
                    run.stop = end.value or (Stop.tol if search and self.problem.tol is not None else Stop.stall)
                    break
                self._accept(run, state, error, search)
                run.stop = self._reported(run.error) or self._verdict(run, search, limits or self.limits)
        except KeyboardInterrupt:
            run.stop = self._ended = Stop.interrupted
            self._stopping = True
        return run

    @staticmethod
    def _accept(run: Run[State], state: State, error: float, search: bool) -> None:
        better = search or error <= run.error
        if better:
            run.state, run.exact = state, False
        run.errors.append(error if better else run.error)

    def best_of(
        self,
        starts: Sequence[Start[State]],
        *,
        entries: int | None = None,
        search: bool = False,
        limits: Limits | None = None,
    ) -> Run[State]:
        """The best run of several starts: the first that keeps the tolerance, else the one of least error.

        On a pool of threads where the tensor swept over (of so many `entries`; default: all of x) is small. The same
        starts give the same run, whatever the threads do.
        """
        runs: list[Run[State] | None] = [None] * len(starts)

        def work(k: int) -> None:
            if not self._stopping:
                state, sweeps = starts[k]()
                runs[k] = run = Run(state)
                self.drive(sweeps, run, search=search, limits=limits)

        entries = math.prod(self.problem.shape) if entries is None else entries
        with blas_threads(entries):
            used = self._first_good(runs, [partial(work, k) for k in range(len(starts))], entries)
        done = [run for run in runs[:used] if run is not None]
        if not done:
            raise KeyboardInterrupt
        best = min(done, key=lambda run: (not self._good_enough(run), run.error))
        best.stop = self._ended or best.stop
        return best

    def _first_good(self, runs: list[Run[State] | None], tasks: list[Callable[[], None]], entries: int) -> int:
        """Does the tasks; how many of them count: those up to the first that nothing can better."""
        pool, used = pool_for(len(tasks), entries), len(tasks)
        try:
            futures = [pool.submit(task) for task in tasks] if pool else []
            for k, task in enumerate(tasks):
                futures[k].result() if pool else task()
                if self._ended is None and self._good_enough(runs[k]):
                    used = k + 1
                    break
        except KeyboardInterrupt:
            self._ended = Stop.interrupted
        finally:
            self._stopping = pool is not None
            if pool and close_pool(pool):
                self._ended = Stop.interrupted
            self._stopping = self.ended
        return len(tasks) if self.ended else used

    @property
    def ended(self) -> bool:
        """Somebody said stop: a callback, or the keyboard."""
        return self._ended is not None

    def result(
        self, tensor: LowRankTensor, run: Run[State], candidates: tuple[Candidate, ...] = ()
    ) -> Decomposition[Any]:
        """The result of a run whose state is `tensor`, in the scale of the problem; its error is the exact one."""
        estimated = False
        try:
            self._confirm(run)
        except KeyboardInterrupt:
            run.stop, estimated = Stop.interrupted, True
        self._close()
        stop = run.stop or Stop.stall
        kept = self.problem.keeps(run.error)
        converged = kept if self.problem.tol is not None else stop is Stop.stall
        errors = tuple(run.errors)
        tensor = self.problem.restored(tensor)
        return Decomposition(tensor, run.error, converged, stop, errors, candidates, estimated)

    def _verdict(self, run: Run[State], search: bool, limits: Limits) -> Stop | None:
        used_up = Stop.max_sweeps if len(run.errors) >= limits.max_sweeps else None
        return used_up if search else self._done(run, limits.stall) or used_up

    def _close(self) -> None:
        """Tells a bar that this was all."""
        close = getattr(self._callback, "close", None)
        if close is not None:
            close()

    def _done(self, run: Run[State], stall: float) -> Stop | None:
        problem, error = self.problem, run.error
        if problem.tol is not None and problem.keeps(error) and problem.keeps(self._confirm(run)):
            return Stop.tol
        if stall > 0 and error <= problem.floor / 4:
            return Stop.stall
        if stall > 0 and len(run.errors) > 1 and run.errors[-2] - error <= stall * run.errors[-2]:
            return Stop.stall
        return None

    def _confirm(self, run: Run[State]) -> float:
        """The exact error of the state, in place of the estimate."""
        if not run.exact:
            error = self.exact(run.state, run.error)
            run.errors[-1:] = [error]
            run.exact = True
        return run.error

    def _good_enough(self, run: Run[State] | None) -> bool:
        """No other start could do better: the tolerance is kept, or nothing but rounding is left."""
        if run is None:
            return False
        if self.problem.tol is None:
            return run.error <= self.problem.floor / 4
        return run.stop is Stop.tol

    def _reported(self, error: float) -> Stop | None:
        """Tells who watches; whether that, or another start's watcher, ends the run."""
        with self._lock:
            self._count, self._least = self._count + 1, min(self._least, error)
            try:
                if self._callback is not None and not self._stopping and self._callback(self._count, self._least):
                    self._ended, self._stopping = Stop.budget, True
            except BaseException:
                self._stopping = True  # the other starts end too, and ask no more
                self._close()
                raise
        return self._ended or (Stop.stall if self._stopping else None)


def checked_stall(stall: Any) -> float:
    """The relative change of the error below which sweeps stop, in [0, 1)."""
    if isinstance(stall, bool) or not isinstance(stall, (int, float, np.number)) or not 0 <= stall < 1:
        raise ValueError(
            f"got stall={stall!r}; it is the relative change of the error below which sweeps stop, in [0, 1): 0 never "
            "stops for that reason"
        )
    return float(stall)


def checked_count(value: Any, name: str) -> int:
    """A count of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"got {name}={value!r}; it is an int of at least 1") from None
    if isinstance(value, bool) or count < 1:
        raise ValueError(f"got {name}={value!r}; it is an int of at least 1")
    return count


def checked_callback(callback: Any) -> Callback | None:
    """Something to call with (sweep, error), or None."""
    if callback is not None and not callable(callback):
        raise TypeError(
            f"got callback={callback!r}; it is called as callback(sweep, error) after each sweep, and a true value "
            "from it ends the run"
        )
    checked: Callback | None = callback
    return checked
