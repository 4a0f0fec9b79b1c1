"""The control loop: every reason to stop, what an interrupt leaves, starts on threads."""

import math
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

import tensorring as tg
from tensorring.decompose._arguments import prepare
from tensorring.decompose._sweeps import Control, Run
from tensorring.tensors.result import Stop


def control(*, tol=None, stall=1e-6, max_sweeps=100, callback=None, exact=None) -> Control:
    """States are errors."""
    problem = prepare(np.ones((2, 3)), tol=tol)
    return Control(
        problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=exact or (lambda state, _: state)
    )


def halving(first=1.0, rate=0.5, calls=None):
    """Errors that fall geometrically, without end."""
    error = first
    while True:
        if calls is not None:
            calls.append(error)
        yield error, error
        error *= rate


def test_stops_at_the_tolerance() -> None:
    run = control(tol=0.1).drive(halving(), Run(1.0))
    assert (run.stop, run.error, len(run.errors)) == (Stop.tol, 0.0625, 5)


def test_a_tolerance_counts_only_when_the_residual_says_so() -> None:
    """Sweeps that underestimate their error go on until the exact one keeps the tolerance, which is reported."""
    run = control(tol=0.1, exact=lambda state, _: 3 * state).drive(halving(), Run(1.0))
    assert run.stop is Stop.tol
    assert run.error == run.errors[-1] == 3 * 0.03125


def test_stops_where_the_error_stalls() -> None:
    run = control(stall=1e-3).drive(halving(rate=0.9995), Run(1.0))
    assert (run.stop, len(run.errors)) == (Stop.stall, 2)
    assert control(stall=0, max_sweeps=7).drive(halving(rate=1.0), Run(1.0)).stop is Stop.max_sweeps


def test_stops_at_rounding() -> None:
    run = control().drive(halving(1e-3), Run(1.0))
    assert run.stop is Stop.stall
    assert run.error < 1e-14


def test_stops_after_max_sweeps() -> None:
    calls = []
    run = control(max_sweeps=3).drive(halving(calls=calls), Run(1.0))
    assert (run.stop, run.errors, len(calls)) == (Stop.max_sweeps, [1.0, 0.5, 0.25], 3)


def test_a_callback_sees_every_sweep_and_may_end_the_run() -> None:
    seen = []
    run = control(callback=lambda sweep, error: seen.append((sweep, error))).drive(halving(), Run(1.0))
    assert seen[:3] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert len(seen) == len(run.errors)
    run = control(callback=lambda sweep, error: error < 0.2).drive(halving(), Run(1.0))
    assert (run.stop, run.error) == (Stop.budget, 0.125)


@pytest.mark.parametrize("where", ["callback", "sweep"])
def test_an_interrupt_keeps_the_best(where) -> None:
    def interrupt(sweep, error):
        if sweep == 3:
            raise KeyboardInterrupt

    def sweeps():
        yield from [(k, e) for k, (e, _) in zip(range(3), halving(), strict=False)]
        raise KeyboardInterrupt

    run = control(callback=interrupt if where == "callback" else None).drive(sweeps(), Run(-1))
    assert (run.stop, run.state, run.error) == (Stop.interrupted, 2, 0.25)


def test_an_interrupt_before_the_first_sweep_keeps_the_start() -> None:
    def sweeps():
        raise KeyboardInterrupt
        yield

    looped = control(exact=lambda state, _: 0.7)
    run = looped.drive(sweeps(), Run("start"))
    assert (run.stop, run.state, run.errors) == (Stop.interrupted, "start", [])
    t = tg.random.tt((2, 3), ranks=1, rng=0)
    assert looped.result(t, run).errors == (0.7,)


def test_sweeps_may_end_by_themselves_and_say_why() -> None:
    def sweeps(why):
        yield 0.5, 0.5
        return why

    assert control().drive(sweeps(Stop.border_rank), Run(1.0)).stop is Stop.border_rank
    assert control().drive(sweeps(None), Run(1.0)).stop is Stop.stall
    assert control(tol=0.9).drive(sweeps(None), Run(1.0), search=True).stop is Stop.tol


def test_the_best_state_is_kept_where_errors_rise() -> None:
    states = [("a", 0.5), ("b", 0.2), ("c", 0.4), ("d", math.nan)]
    run = control(stall=0).drive(iter(states), Run(None))
    assert (run.state, run.errors) == ("b", [0.5, 0.2, 0.2, 0.2])


def test_a_search_keeps_its_last_state_whatever_the_error() -> None:
    run = control(tol=0.5).drive(iter([("large", 0.1), ("small", 0.4)]), Run(None), search=True)
    assert (run.state, run.errors, run.stop) == ("small", [0.1, 0.4], Stop.tol)


def test_the_first_start_that_keeps_the_tolerance_wins() -> None:
    for _ in range(5):
        starts = [lambda k=k: (k, ((k, e) for e in [0.5, (0.4, 0.05, 0.01)[k]])) for k in range(3)]
        run = control(tol=0.1, exact=lambda state, _: (0.4, 0.05, 0.01)[state]).best_of(starts)
        assert (run.state, run.stop) == (1, Stop.tol)


def test_the_least_error_wins_where_there_is_no_tolerance() -> None:
    starts = [lambda k=k, e=e: (k, iter([(k, e)] * 2)) for k, e in enumerate([0.5, 0.2, 0.3, 0.2])]
    run = control().best_of(starts)
    assert (run.state, run.error, run.stop) == (1, 0.2, Stop.stall)


@pytest.mark.parametrize("entries", [10, 2**20])
def test_an_interrupt_among_several_starts_keeps_the_best_of_all(entries) -> None:
    """On threads and in turn."""
    begun = threading.Barrier(2, timeout=10) if entries == 10 else SimpleNamespace(wait=lambda: None)

    def good():
        begun.wait()
        yield "good", 0.1
        while entries == 10:
            yield "good", 0.1

    def bad():
        begun.wait()
        yield "bad", 0.5
        raise KeyboardInterrupt

    run = control(stall=0, max_sweeps=10**6).best_of(
        [lambda: ("none", good()), lambda: ("none", bad())], entries=entries
    )
    assert (run.state, run.stop) == ("good", Stop.interrupted)


def test_an_interrupt_before_anything_was_found_is_raised() -> None:
    def start():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        control().best_of([start])


def test_failures_of_a_start_are_not_hidden() -> None:
    def start():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        control().best_of([start, start])


@pytest.mark.parametrize("value", [-0.1, 1, 2.0, math.nan, "a", None, True])
def test_stall_out_of_range(value) -> None:
    with pytest.raises(ValueError, match=r"stall=.*\[0, 1\)"):
        control(stall=value)


def test_max_sweeps_out_of_range() -> None:
    for value in (0, -1, True):
        with pytest.raises(ValueError, match=r"max_sweeps=.*at least 1"):
            control(max_sweeps=value)
    with pytest.raises(TypeError, match=r"max_sweeps=2\.5"):
        control(max_sweeps=2.5)


def test_callbacks_are_callable() -> None:
    with pytest.raises(TypeError, match=r"callback=3.*callback\(sweep, error\)"):
        control(callback=3)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """A keyboard to interrupt from, also where a shell started the tests in the background and so without one."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_a_long_run_returns_what_there_is(gaussian) -> None:
    """A real signal, in the middle of a sweep."""
    x = gaussian((30, 30, 30))
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])

    def start(*_) -> None:
        """After a sweep, however slow the machine is: what comes before is no long run."""
        if timer.ident is None:
            timer.start()

    result = tg.cp_als(x, rank=5, stall=0, max_sweeps=10**6, callback=start)
    timer.join()
    assert result.stop is Stop.interrupted
    assert result.error == pytest.approx(tg.relative_error(x, result.tensor), rel=1e-12)


def test_the_progress_bar_shows_sweeps_and_error(capsys) -> None:
    pytest.importorskip("tqdm")
    x = tg.random.cp((5, 6, 7), rank=2, rng=0).to_dense()
    bar = tg.progress("fit")
    for _ in range(2):
        tg.cp_als(x, rank=2, tol=1e-6, callback=bar)
    shown = capsys.readouterr().err
    assert "fit" in shown
    assert "sweeps" in shown
    assert "error" in shown


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("ctrl_c")
def test_interrupts_of_large_passes_leave_whole_results(seed) -> None:
    """Signals at any moment of passes on several threads: the state that comes back is the one reported."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((90, 80, 70))
    start = tg.random.cp(x.shape, rank=6, rng=0)
    tg.cp_als(x, rank=6, init=start, max_sweeps=1)  # loads the kernels: interrupts of an import are Python's own affair
    for _ in range(8):
        timer = threading.Timer(0.02 + 0.03 * rng.random(), signal.raise_signal, [signal.SIGINT])
        timer.start()
        try:
            result = tg.cp_als(x, rank=6, init=start, stall=0, max_sweeps=10**6)
        except KeyboardInterrupt:
            continue  # before there was anything to lose
        finally:
            timer.join()
        assert result.stop is Stop.interrupted
        assert result.error == pytest.approx(tg.relative_error(x, result.tensor), rel=1e-12)


def test_byte_orders_and_overlapping_limits_change_nothing() -> None:
    """Files hold big-endian numbers; threads of a user overlap: results agree, and BLAS gets its threads back."""
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_info

    def threads():
        return [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]

    x = tg.random.cp((70, 64, 66), rank=2, rng=0).to_dense()
    before = threads()
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda y: tg.cp_als(y, rank=2, init="gevd", rng=0).error, [x, x.astype(">f8")] * 4))
    assert max(errors) < 1e-13
    assert threads() == before
