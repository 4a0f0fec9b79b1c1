"""The edge to files, lower half: named arrays and strings, to the bytes of a safetensors or npz file and back.

Knows nothing of tensors. Decoders believe nothing: every length is compared with the bytes that are there before
memory is taken, dtypes come from a list of three, and nothing is unpickled. Whatever is wrong is a ValueError.
"""

from __future__ import annotations

import ast
import io
import json
import math
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
Metadata: TypeAlias = dict[str, str]

_SAFETENSORS_DTYPES = {"F32": "<f4", "F64": "<f8"}
_NPY_DTYPES = ("<f4", "<f8", ">f4", ">f8", "|u1")
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER_KEYS = {"descr", "fortran_order", "shape"}
_NPZ_METADATA = "metadata.npy"

# What reading damaged files in memory was seen to raise, besides our own ValueErrors.
_DAMAGE = (
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    safetensors.SafetensorError, zipfile.BadZipFile,
)  # fmt: skip


def encode(suffix: str, arrays: Arrays, metadata: Metadata) -> bytes:
    """The file of that suffix, as bytes. Arrays are float32 or float64."""
    little = {name: _with_order(array, "<") for name, array in arrays.items()}
    return safetensors.numpy.save(little, metadata=metadata) if suffix == ".safetensors" else _npz(little, metadata)


def decode(suffix: str, content: bytes) -> tuple[Arrays, Metadata]:
    """Arrays (writable, C order) and strings of a file; ValueError where it is not all that it claims to be."""
    try:
        arrays, metadata = _read_safetensors(content) if suffix == ".safetensors" else _read_npz(content)
    except _DAMAGE as error:
        raise ValueError(f"it is no {suffix[1:]} file, or a damaged one ({error or type(error).__name__})") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is no dictionary of strings")
    return {name: _with_order(array, "=") for name, array in arrays.items()}, metadata


def _with_order(array: np.ndarray[Any, Any], order: Any) -> np.ndarray[Any, Any]:
    """A copy in C order and that byte order."""
    return np.array(array, dtype=array.dtype.newbyteorder(order), order="C")


def _read_safetensors(content: bytes) -> tuple[Arrays, Any]:
    entries = safetensors.deserialize(content)  # type: ignore[no-untyped-call]  # checks every length against the file's
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise ValueError(f"its array {name!r} is of dtype {entry['dtype']}; only F32 and F64 are written")
        dtype = _SAFETENSORS_DTYPES[entry["dtype"]]
        arrays[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return arrays, header.get("__metadata__", {})


def _npz(arrays: Arrays, metadata: Metadata) -> bytes:
    text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {_NPZ_METADATA: text, **{f"{name}.npy": array for name, array in arrays.items()}}.items():
            # A ZipInfo has a fixed date: the same tensor gives the same file.
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _read_npz(content: bytes) -> tuple[Arrays, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its arrays are compressed, which tensorring never does")
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("its arrays claim more bytes than the file has")
        arrays = {member.filename: _npy(archive.read(member), member.filename) for member in members}
    if len(arrays) < len(members):
        raise ValueError("two of its arrays have one name")
    if _NPZ_METADATA not in arrays:
        raise ValueError(f"it holds {', '.join(map(repr, arrays)) or 'nothing'} and no metadata")
    text = arrays.pop(_NPZ_METADATA)
    return {name.removesuffix(".npy"): array for name, array in arrays.items()}, json.loads(text.tobytes())


def _npy(content: bytes, name: str) -> np.ndarray[Any, Any]:
    """One array of an npz file."""
    start = len(_NPY_MAGIC) + 2
    length = int.from_bytes(content[len(_NPY_MAGIC) : start], "little")
    if not content.startswith(_NPY_MAGIC) or length > len(content) - start or length > 2**12:
        raise ValueError(f"its member {name!r} is no npy array as tensorring writes them")
    try:
        header = ast.literal_eval(content[start : start + length].decode("ascii").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        header = None
    if not isinstance(header, dict) or set(header) != _NPY_HEADER_KEYS or header["descr"] not in _NPY_DTYPES:
        raise ValueError(f"its member {name!r} has the header {header!r:.80}; only arrays of floats are written")
    shape, data = header["shape"], content[start + length :]
    is_shape = isinstance(shape, tuple) and len(shape) <= 64 and all(type(size) is int and size >= 0 for size in shape)
    if not is_shape or math.prod(shape) * np.dtype(header["descr"]).itemsize != len(data):
        raise ValueError(f"its member {name!r} has the header {header!r:.80} but {len(data)} bytes")
    return np.frombuffer(data, header["descr"]).reshape(shape, order="F" if header["fortran_order"] else "C")


def write(path: Path, content: bytes) -> None:
    """The content under that name, all of it or none: written beside it, then moved over it."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save {path.name} in: make it first")
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
