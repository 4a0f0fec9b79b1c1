"""The edge to files: low-rank tensors and decompositions, to disk and back, without executing anything.

A file holds the arrays of the tensor as `array_0`, `array_1`, … and strings: the format's name and version, and JSON
that says what the arrays are. Complex arrays are stored as real ones with a last axis of length 2, since not every
reader of the two containers knows complex numbers; their dtype stands in the JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tensorring._array import FLOATS, Array, dtype_name, to_host
from tensorring._containers import Arrays, Metadata, decode, encode, write
from tensorring.tensors import (
    BlockTermTensor,
    Candidate,
    CPTensor,
    CutTensor,
    Decomposition,
    LowRankTensor,
    Stop,
    TRTensor,
    TTTensor,
    TuckerTensor,
)

FORMAT, VERSION = "tensorring", 1
_SUFFIXES = (".safetensors", ".npz")
_STORED_AS = {"float32": "float32", "float64": "float64", "complex64": "float32", "complex128": "float64"}
T = TypeVar("T")


def save(path: str | os.PathLike[str], t: LowRankTensor | Decomposition[Any]) -> None:
    """Write a low-rank tensor, or a whole decomposition, such that `load` gives it back bit for bit.

    Parameters
    ----------
    path
        Ends in `.safetensors` or `.npz`; a file that is there is replaced, in one step: readers see the old file or
        the new one, and after a failure the old one is still there.
    t
        A tensor of any format, or a `Decomposition`, whose error, sweeps and candidates are kept. Arrays of other
        libraries are brought to the host.

    Raises
    ------
    ValueError
        If the path ends in anything else.
    TypeError
        If `t` is neither.

    Notes
    -----
    What held the arrays is not stored: not the library, not the device, not the memory order.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import tensorring as tg
    >>> t = tg.random.tr((4, 5, 6), ranks=2, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "ring.safetensors")
    ...     tg.save(path, t)
    ...     tg.load(path)
    TRTensor(shape=(4, 5, 6), ranks=(2, 2, 2), parameters=60, dtype=float64)
    """
    path = Path(path)
    suffix = _suffix(path)
    tensor = t.tensor if isinstance(t, Decomposition) else t
    if not isinstance(tensor, LowRankTensor):
        raise TypeError(
            f"got {type(t).__name__} to save; a file holds a low-rank tensor such as TTTensor, or a Decomposition: "
            "numpy.save is for dense arrays"
        )
    metadata = {"format": FORMAT, "version": str(VERSION), "tensor": json.dumps(_described(tensor))}
    if isinstance(t, Decomposition):
        metadata["decomposition"] = json.dumps(_facts(t))
    arrays = {f"array_{k}": _as_reals(array) for k, array in enumerate(tensor.arrays)}
    write(path, encode(suffix, arrays, metadata))


def load(path: str | os.PathLike[str]) -> Any:
    """The low-rank tensor or decomposition that `save` wrote, with NumPy arrays.

    Nothing in a file is executed, and a file is believed only where everything in it fits together.

    Parameters
    ----------
    path
        A file written by `save`, ending in `.safetensors` or `.npz`.

    Returns
    -------
    LowRankTensor or Decomposition
        Whichever was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, damaged, written by another program or by a newer tensorring, or the path ends in
        anything else.

    Notes
    -----
    That the numbers are finite, or the stated error is true, is not checked: `relative_error` checks the latter.
    Memory: twice the file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import tensorring as tg
    >>> result = tg.Decomposition(tg.random.cp((4, 5), rank=2, rng=0), error=0.1, converged=True, stop=tg.Stop.tol)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "result.npz")
    ...     tg.save(path, result)
    ...     tg.load(path)
    Decomposition(CPTensor(shape=(4, 5), ranks=(2,), parameters=20, dtype=float64), error=0.1, converged=True, stop=tol)
    """
    path = Path(path)
    suffix = _suffix(path)
    try:
        if path.is_dir():
            raise ValueError("it is a directory")
        return _restored(*decode(suffix, path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"cannot load {str(path)!r}: {error}. It should be a whole, unchanged file written by tensorring.save: "
            "write it again, or open it with the program that it comes from"
        ) from error


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"got {str(path)!r}; the name of a file of tensors ends in {' or '.join(_SUFFIXES)}: rename it"
        )
    return suffix


# To a file: a description in plain numbers and strings.


def _described(tensor: LowRankTensor) -> dict[str, Any]:
    dtypes = [dtype_name(array.dtype) for array in tensor.arrays]
    facts: dict[str, Any] = {"format": tensor.format, "dtypes": dtypes}
    if isinstance(tensor, (CutTensor, BlockTermTensor)):
        facts["modes"] = list(tensor.modes)
    return facts


def _facts(result: Decomposition[Any]) -> dict[str, Any]:
    """All of a decomposition but its tensor. JSON keeps doubles exactly, inf and nan included."""
    return {
        "error": float(result.error),
        "converged": bool(result.converged),
        "stop": result.stop.value,
        "errors": [float(error) for error in result.errors],
        "candidates": [
            {
                "format": str(c.format),
                "ranks": [int(rank) for rank in c.ranks],
                "parameter_count": int(c.parameter_count),
                "error": float(c.error),
            }
            for c in result.candidates
        ],
        "estimated": bool(result.estimated),
    }


def _as_reals(array: Array) -> np.ndarray[Any, Any]:
    host = np.asarray(to_host(array))
    return np.stack([host.real, host.imag], axis=-1) if np.iscomplexobj(host) else host


# From a file: every field is checked for its type, and the constructors check how shapes fit.


def _restored(arrays: Arrays, metadata: Metadata) -> LowRankTensor | Decomposition[Any]:
    _check_version(metadata)
    tensor = _tensor(_object(metadata, "tensor"), arrays)
    if "decomposition" not in metadata:
        return tensor
    facts = _object(metadata, "decomposition")
    return Decomposition(
        tensor=tensor,
        error=_field(facts, "error", float),
        converged=_field(facts, "converged", bool),
        stop=_stop(_field(facts, "stop", str)),
        errors=tuple(_list(facts, "errors", float)),
        candidates=tuple(_candidate(candidate) for candidate in _list(facts, "candidates", dict)),
        estimated=_field(facts, "estimated", bool),
    )


def _check_version(metadata: Metadata) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its metadata names the format {metadata.get('format')!r:.60} and not {FORMAT!r}")
    version = metadata.get("version", "")
    if not (version.isascii() and version.isdecimal() and len(version) < 10 and int(version) > 0):
        raise ValueError(f"its format version is {version[:40]!r} and not a positive integer")
    if int(version) > VERSION:
        raise ValueError(
            f"its format version is {version} and the highest known here is {VERSION}; it was written by a newer "
            "tensorring: upgrade"
        )


def _tensor(facts: dict[str, Any], arrays: Arrays) -> LowRankTensor:
    dtypes = _list(facts, "dtypes", str)
    names = [f"array_{k}" for k in range(len(dtypes))]
    if set(names) != set(arrays):
        raise ValueError(f"it holds the arrays {sorted(arrays)}, and its metadata speaks of {names}")
    parts = [_from_reals(arrays[name], name, dtype) for name, dtype in zip(names, dtypes, strict=True)]
    match _field(facts, "format", str), parts:
        case "tt", _:
            return TTTensor(tuple(parts))
        case "tr", _:
            return TRTensor(tuple(parts))
        case "cp", [weights, *factors]:
            return CPTensor(weights, tuple(factors))
        case "tucker", [core, *factors]:
            return TuckerTensor(core, tuple(factors))
        case "btd", [cores, *factors]:
            return BlockTermTensor(cores, tuple(factors), tuple(_list(facts, "modes", int)))
        case "cut", [left, right]:
            return CutTensor(left, right, tuple(_list(facts, "modes", int)))
        case name, _:
            raise ValueError(
                f"its metadata speaks of {len(parts)} arrays in format {name!r:.60}, which is none of ours"
            )


def _from_reals(array: np.ndarray[Any, Any], name: str, dtype: str) -> np.ndarray[Any, Any]:
    if dtype not in FLOATS or array.dtype != _STORED_AS[dtype]:
        raise ValueError(f"its {name} is stored as {array.dtype} and said to be {dtype!r:.60}, which do not fit")
    if "complex" not in dtype:
        return array
    if array.ndim == 0 or array.shape[-1] != 2:
        raise ValueError(f"its {name} is complex but has shape {array.shape}; the last axis holds the two parts")
    view: np.ndarray[Any, Any] = array.view(dtype)[..., 0]
    return view


def _stop(name: str) -> Stop:
    if name not in Stop.__members__:
        raise ValueError(f"its metadata says stop = {name!r:.60}, which is none of {list(Stop.__members__)}")
    return Stop[name]


def _candidate(facts: dict[str, Any]) -> Candidate:
    return Candidate(
        format=_field(facts, "format", str),
        ranks=tuple(_list(facts, "ranks", int)),
        parameter_count=_field(facts, "parameter_count", int),
        error=_field(facts, "error", float),
    )


def _object(metadata: Metadata, key: str) -> dict[str, Any]:
    """The JSON object that stands in the string of that name."""
    try:
        facts = json.loads(metadata.get(key, ""))
    except ValueError as error:
        raise ValueError(f"its metadata under {key!r} is no JSON ({error})") from error
    return _field({key: facts}, key, dict)


def _field(facts: dict[str, Any], key: str, kind: type[T]) -> T:
    """One entry, of exactly that type: JSON's true is no 1."""
    value = facts.get(key)
    if type(value) is not kind:
        raise ValueError(f"its metadata has {key} = {value!r:.60}, where a value of type {kind.__name__} stands")
    return value


def _list(facts: dict[str, Any], key: str, kind: type[T]) -> list[T]:
    return [_field({key: value}, key, kind) for value in _field(facts, key, list)]
