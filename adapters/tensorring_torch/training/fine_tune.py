"""Training on after compression: classifiers learn by labels, by agreement with the dense network, or by both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor, nn

from tensorring_torch.checks import check_model
from tensorring_torch.replace import duplicate
from tensorring_torch.training.batches import Batch, batches
from tensorring_torch.training.recipe import Recipe
from tensorring_torch.training.result import FineTuned
from tensorring_torch.training.resume import RunFile, digest
from tensorring_torch.training.run import Run


def fine_tune(
    model: nn.Module,
    teacher: nn.Module | None,
    loader: Iterable[Batch] | Batch,
    *,
    validation: float | Iterable[Batch] | Batch = 0.1,
    augment: Callable[[Tensor], Tensor] | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[int, float], Any] | None = None,
    **recipe: Any,
) -> FineTuned:
    """A copy of `model`, trained on for a few epochs by a `Recipe`: labels, agreement with the teacher, or both.

    Parameters
    ----------
    model
        A classifier (N, …) -> (N, classes, …), on any device; it is not changed.
    teacher
        The dense network that it should agree with, on the same device, or None.
    loader
        Tensors (x, y), or batches (x, y) from something with a length, such as a DataLoader. y as cross-entropy takes.
        With a teacher and distill=1 labels are not used, and may be left out: a tensor x, or batches of x.
    validation
        A share of the tensors to hold out, or other data of either kind; 0: none. It only reports, and picks `best`.
    augment
        x -> x on each training batch, on the model's device. The teacher sees the same x, so that with distill=1 it
        may also mix images; with labels it must keep what they say.
    penalty
        model -> a scalar that is added to the loss of each step, such as lambda m: 1e-3 * (a penalty of its weights).
    seed
        Of the split, the order, the augmentation and dropout: on one machine the same seed gives the same network.
    checkpoint
        A file that keeps the run: rewritten whole after each epoch, and where it is there already, the run goes on from
        it. So after Ctrl-C or a crash the same call again finishes the run, and gives the same network, bit by bit, as
        one that was never broken off; of a run that is complete it gives the result at once.
    callback
        Called as callback(step, loss) after each step; a true value ends the run. `tg.progress()` draws a bar.
    **recipe
        The fields of `tgt.Recipe`: epochs, optimizer, lr, momentum, weight_decay, batch_size, distill, temperature,
        match, sensitivity, clip, batch_norm, ema.

    Returns
    -------
    FineTuned
        With `.model`, in the training modes of the one given, `.best`, `.best_epoch`, `.history`, `.stop` and
        `.message`. An interrupt (Ctrl-C) returns the best so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range, labels are missing that are needed, or the checkpoint is of
        another run: with other weights at the start, another teacher, seed, recipe, share held out or number of steps.
    OSError
        If the checkpoint cannot be written or read.

    Notes
    -----
    The global random state of torch is as it was before. Costs a forward and a backward pass an image, one more forward
    pass with a teacher, and memory for the states kept: two copies, one more with `ema`, and the optimizer's.

    A checkpoint is a file of torch.save with tensors, numbers and texts alone, read with weights_only=True. That data,
    augmentation and penalty are the same is taken on trust; random numbers that are not drawn from torch's global state
    (NumPy's, a loader's own generator or workers) do not go on where they were. A model that `compress` made may
    differ when it is made again: `tgt.save` it first.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> dense = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    >>> small = tgt.compress(dense, torch.zeros(1, 1, 5, 5), tol=0.5).model
    >>> data = torch.rand(40, 1, 5, 5), torch.arange(40) % 2
    >>> tuned = tgt.fine_tune(small, dense, data, epochs=2, lr=0.01)
    >>> tuned.stop, len(tuned.history)
    ('epochs', 3)

    Without labels, agreement with the dense network on mixed images:

    >>> def mixed(x):
    ...     return 0.7 * x + 0.3 * x.flip(0)
    >>> tuned = tgt.fine_tune(small, dense, data[0], epochs=2, augment=mixed, optimizer="adam", lr=1e-3, distill=1.0)
    >>> tuned.best_epoch in tuned.history
    True
    """
    known = [field.name for field in fields(Recipe)]
    unknown = [name for name in recipe if name not in known]
    if unknown:
        raise TypeError(f"got {unknown[0]}=, which is no field of tgt.Recipe: {', '.join(known)}")
    chosen = Recipe(**recipe)
    check_model(model)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(list(devices)):
        train, held_out = batches(loader, validation, chosen.batch_size, seed)
        file = None
        if checkpoint is not None:
            share = float(validation) if isinstance(validation, (int, float)) else None
            data = {"seed": int(seed), "validation": share, "steps": len(train)}
            file = RunFile(checkpoint, {"model": digest(model), "teacher": digest(teacher)} | data | asdict(chosen))
        torch.manual_seed(seed)
        student, taught_by = duplicate(model), None if teacher is None else duplicate(teacher).eval()
        run = Run(student, taught_by, chosen, augment, penalty)
        try:
            stop = run.epochs(train, held_out, callback, file)
        except KeyboardInterrupt:
            stop = "interrupted"
        finally:
            getattr(callback, "close", lambda: None)()
        student.load_state_dict(run.last if stop in ("epochs", "diverged") else run.best)
    for mine, theirs in zip(student.modules(), model.modules(), strict=True):
        mine.training = theirs.training
    return FineTuned(student, run.best, tuple(run.history), stop, chosen)
