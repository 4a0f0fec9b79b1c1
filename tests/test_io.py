"""Files: exact round trips, and a clear ValueError for everything that is not ours."""

import dataclasses
import io
import json
import math
import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import _array
from tensorring.testing import low_rank_tensors
from tensorring.testing.samples import LAYOUTS

SUFFIXES = (".safetensors", ".npz")
WAY_OUT = r"written by tensorring\.save: write it again"


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"tensor{request.param}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def _assert_same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, tg.Decomposition):
        for field in dataclasses.fields(a):
            if field.name != "tensor":
                one, two = getattr(a, field.name), getattr(b, field.name)
                assert repr(one) == repr(two)  # exact: a float's repr is its value, nan included
                assert type(one) is type(two)
        return _assert_same(a.tensor, b.tensor)
    assert getattr(a, "modes", None) == getattr(b, "modes", None)
    for one, two in zip(a.arrays, b.arrays, strict=True):
        assert isinstance(two, np.ndarray)
        assert two.flags.writeable
        assert two.flags.c_contiguous
        np.testing.assert_array_equal(one, two, strict=True)
    return None


FLOATS = st.floats(allow_nan=True)
CANDIDATES = st.builds(
    tg.Candidate,
    st.sampled_from(["tt", "tr", "tucker"]),
    st.lists(st.integers(1, 9), max_size=4).map(tuple),
    st.integers(1, 10**12),
    FLOATS,
)
DECOMPOSITIONS = st.builds(
    tg.Decomposition,
    low_rank_tensors(),
    FLOATS,
    st.booleans(),
    st.sampled_from(tg.Stop),
    st.lists(FLOATS, max_size=4).map(tuple),
    st.lists(CANDIDATES, max_size=3).map(tuple),
    st.booleans(),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(t=low_rank_tensors() | DECOMPOSITIONS)
def test_what_is_saved_is_loaded_bit_for_bit(folder, suffix, t) -> None:
    path = folder / f"any{suffix}"
    tg.save(path, t)
    _assert_same(t, tg.load(path))


@pytest.mark.parametrize(
    "make", [*LAYOUTS.values(), lambda x: x.astype(x.dtype.newbyteorder())], ids=[*LAYOUTS, "bytes"]
)
def test_any_memory_order_and_special_values(path, make, dtype, gaussian) -> None:
    left = gaussian((3, 2), dtype)
    left[0, 0], left[1, 1] = np.nan, -0.0
    t = tg.CutTensor(make(left), make(gaussian((2, 4), dtype)), modes=(1,))
    tg.save(str(path), t)
    loaded = tg.load(str(path))
    np.testing.assert_array_equal(loaded.left, left, strict=True)
    assert math.copysign(1, loaded.left[1, 1].real) == -1


def test_readonly_arrays_are_saved_and_numpy_scalars_in_results(path) -> None:
    core = np.ones((1, 3, 1))
    core.flags.writeable = False
    result = tg.Decomposition(
        tg.TTTensor([core]), np.float64(0.1), np.bool_(True), tg.Stop.tol, (np.float64(0.5),),
        (tg.Candidate("tt", (np.int64(2),), np.int64(3), np.float64(0.1)),),
    )  # fmt: skip
    tg.save(path, result)
    assert tg.load(path).candidates == result.candidates


def test_arrays_of_every_library_are_brought_to_the_host(xp, path, dtype) -> None:
    t = tg.random.tr((3, 4, 5), ranks=2, dtype=dtype, rng=0)
    tg.save(path, xp.tensor(t))
    _assert_same(t, tg.load(path))


def test_the_same_tensor_gives_the_same_npz_file(tmp_path) -> None:
    """Safetensors files differ in the order of their strings, which the writing library leaves to chance."""
    path = tmp_path / "t.npz"
    t = tg.random.tr((3, 4, 5), ranks=2, rng=0)
    tg.save(path, t)
    first = path.read_bytes()
    tg.save(path, t)
    assert path.read_bytes() == first


def test_other_readers_can_read_them(tmp_path) -> None:
    """The format as documented, with nothing of ours: real views, and JSON in strings."""
    t = tg.random.cp((3, 4), rank=2, dtype="complex64", rng=0)
    tg.save(tmp_path / "t.safetensors", t)
    with safetensors.safe_open(tmp_path / "t.safetensors", framework="np") as file:
        assert file.metadata()["format"] == "tensorring"
        assert file.metadata()["version"] == "1"
        assert json.loads(file.metadata()["tensor"])["dtypes"] == ["float32", "complex64", "complex64"]
        parts = file.get_tensor("array_1")
    np.testing.assert_array_equal(parts[..., 0] + 1j * parts[..., 1], t.factors[0])
    tg.save(tmp_path / "t.npz", t)
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["array_1"], parts)
        assert json.loads(file["metadata"].tobytes())["format"] == "tensorring"


def test_capitals_in_the_suffix(tmp_path) -> None:
    tg.save(tmp_path / "T.NPZ", tg.random.tt((3, 4), ranks=2, rng=0))
    assert tg.load(tmp_path / "T.NPZ").ranks == (2,)


@pytest.mark.parametrize("name", ["t.pt", "t", "t.npy", ".npz"])
def test_other_suffixes_name_both(tmp_path, name) -> None:
    for call in (
        lambda: tg.save(tmp_path / name, tg.random.tt((3,), ranks=(), rng=0)),
        lambda: tg.load(tmp_path / name),
    ):
        with pytest.raises(ValueError, match=r"\.safetensors or \.npz"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("t", [np.ones(3), None, {"a": 1}])
def test_other_objects_are_a_type_error(path, t) -> None:
    with pytest.raises(TypeError, match=type(t).__name__):
        tg.save(path, t)
    assert not path.exists()


def test_a_missing_file_and_a_missing_folder(path) -> None:
    with pytest.raises(FileNotFoundError):
        tg.load(path)
    with pytest.raises(FileNotFoundError):
        tg.save(path.parent / "none" / path.name, tg.random.tt((3, 4), ranks=2, rng=0))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch, step) -> None:
    old, new = tg.random.tt((3, 4), ranks=2, rng=0), tg.random.tt((3, 4), ranks=2, rng=1)
    tg.save(path, old)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        tg.save(path, new)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    _assert_same(old, tg.load(path))


# What is not ours.


def _refused(path, match: str) -> None:
    with pytest.raises(ValueError, match=WAY_OUT) as caught:
        tg.load(path)
    assert str(path) in str(caught.value)
    caught.match(match)
    assert len(str(caught.value)) < 2000


def _rewritten(path, change_metadata=None, change_arrays=None, t=None) -> None:
    """A file as `save` would write it, but for a change in its strings or arrays."""
    tg.save(path, t or tg.random.tr((3, 4, 5), ranks=2, rng=0))
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
        metadata = json.loads(arrays.pop("metadata").tobytes())
    else:
        arrays = safetensors.numpy.load_file(path)
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata()
    if change_metadata:
        change_metadata(metadata)
    if change_arrays:
        change_arrays(arrays)
    if path.suffix == ".npz":
        np.savez(path, metadata=np.frombuffer(json.dumps(metadata).encode(), np.uint8), **arrays)
    else:
        safetensors.numpy.save_file(arrays, path, metadata=metadata)


def test_rewriting_without_a_change_is_fine(path) -> None:
    """The changes below are refused for what they change."""
    _rewritten(path)
    _assert_same(tg.random.tr((3, 4, 5), ranks=2, rng=0), tg.load(path))


def test_a_directory(path) -> None:
    path.mkdir()
    _refused(path, "directory")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"hello, world\n",
        b"\xff" * 64,
        b"PK\x03\x04" + b"\x00" * 40,
        b"\x02" + b"\x00" * 7 + b"{}",
        b"[" * 99999,
    ],
    ids=["empty", "one byte", "text", "absurd header length", "zip magic", "empty safetensors", "brackets"],
)
def test_content_that_is_no_such_file(path, content) -> None:
    path.write_bytes(content)
    _refused(path, r"safetensors|npz|format None|metadata")


@pytest.mark.parametrize(
    "header", [b"[" * 50_000, b"{" + b'"a":' * 20_000, b'{"__metadata__": 3}', b'{"__metadata__": {"a": 1}}']
)
def test_hostile_safetensors_headers(tmp_path, header) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    _refused(path, "safetensors")


def test_every_truncation_is_refused(path) -> None:
    tg.save(path, tg.random.tr((2, 2), ranks=1, rng=0))
    content = path.read_bytes()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        _refused(path, "damaged|safetensors|npz")


def test_a_damaged_byte_is_refused_or_changes_numbers_only(path) -> None:
    """Nothing but ValueError ever comes out, whichever byte is changed."""
    t = tg.random.tr((2, 2), ranks=1, rng=0)
    tg.save(path, t)
    content = bytearray(path.read_bytes())
    for position in range(len(content)):
        for value in (0, 0x80, content[position] ^ 1):
            damaged = bytearray(content)
            damaged[position] = value
            path.write_bytes(damaged)
            try:
                loaded = tg.load(path)
            except ValueError as error:
                assert "written by tensorring.save" in str(error)  # noqa: PT017
            else:
                assert isinstance(loaded, tg.TRTensor)


def test_files_of_other_programs(path) -> None:
    arrays = {"weight": np.ones((3, 4), dtype="float32")}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        _refused(path, r"weight\.npy.*no metadata")
    else:
        safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
        _refused(path, r"names the format 'pt' and not 'tensorring'")
        safetensors.numpy.save_file(arrays, path)
        _refused(path, r"names the format None")


class Bomb:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (os.putenv, ("TENSORRING_WAS_EXPLODED", "1"))


def test_pickles_are_never_opened(tmp_path, monkeypatch) -> None:
    path = tmp_path / "t.npz"
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    bomb = np.array([Bomb()], dtype=object)
    np.savez(path, metadata=bomb)
    _refused(path, r"descr.*'\|O'")
    _rewritten(path, change_arrays=lambda arrays: arrays.update(array_0=bomb))
    _refused(path, r"array_0.*'\|O'")
    path.write_bytes(pickle.dumps(Bomb()))
    _refused(path, "no npz file")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2", r"written by a newer tensorring: upgrade"),
        ("999999999", r"newer tensorring"),
        ("0", r"version is '0'"),
        ("-1", r"positive integer"),
        ("one", r"'one'"),
        ("²", r"positive integer"),
        ("9" * 5000, r"positive integer"),
        ("", r"positive integer"),
    ],
)
def test_other_versions(path, version, message) -> None:
    _rewritten(path, lambda metadata: metadata.update(version=version))
    _refused(path, message)


def _described(**changes):
    def change(metadata) -> None:
        metadata["tensor"] = json.dumps(json.loads(metadata["tensor"]) | changes)

    return change


F8 = ["float64"] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="tensorly"), "'tensorly'"),
        (lambda m: m.pop("format"), "format None"),
        (lambda m: m.pop("version"), "version is ''"),
        (lambda m: m.pop("tensor"), "'tensor' is no JSON"),
        (lambda m: m.update(tensor="{"), "'tensor' is no JSON"),
        (lambda m: m.update(tensor="[" * 100_000), "."),
        (lambda m: m.update(tensor="[1]"), r"tensor = \[1\].*type dict"),
        (lambda m: m.update(tensor="null"), r"tensor = None.*type dict"),
        (lambda m: m.update(tensor="1" * 5000), "no JSON"),
        (_described(format="hierarchical"), "'hierarchical'.*none of ours"),
        (_described(format=3), "format = 3.*type str"),
        (_described(format="cut"), "3 arrays in format 'cut'"),
        (_described(format="cp"), r"weights has shape"),
        (_described(format="tucker"), r"core has shape|factors\[0\]"),
        (_described(format="tt"), "outer bonds"),
        (_described(dtypes=None), "dtypes = None.*type list"),
        (_described(dtypes=[]), r"array_0.*speaks of \[\]"),
        (_described(dtypes=[*F8, "float64"]), "array_3"),
        (_described(dtypes=[1, 2, 3]), "dtypes = 1.*type str"),
        (_described(dtypes=["object"] * 3), "stored as float64.*'object'"),
        (_described(dtypes=["float32", *F8[1:]]), "stored as float64.*'float32'"),
        (_described(dtypes=["complex128", *F8[1:]]), "complex.*shape|three axes|3 axes"),
        (lambda m: m.update(decomposition="nonsense"), "'decomposition' is no JSON"),
        (lambda m: m.update(decomposition="{}"), "error = None.*type float"),
    ],
)
def test_metadata_that_does_not_fit(path, change, message) -> None:
    _rewritten(path, change)
    _refused(path, message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("error", "0.1", "error = '0.1'.*float"),
        ("error", True, "error = True.*float"),
        ("converged", 1, "converged = 1.*bool"),
        ("stop", "bored", "'bored'.*direct"),
        ("stop", None, "stop = None.*str"),
        ("errors", [0.5, "a"], "errors = 'a'.*float"),
        ("errors", {}, "errors = {}.*list"),
        ("candidates", [3], "candidates = 3.*dict"),
        ("candidates", [{"format": "tt"}], "ranks = None.*list"),
        ("candidates", [{"format": "tt", "ranks": [True]}], "ranks = True.*int"),
        ("estimated", [], r"estimated = \[\].*bool"),
    ],
)
def test_facts_of_a_decomposition_that_do_not_fit(path, field, value, message) -> None:
    def change(metadata) -> None:
        metadata["decomposition"] = json.dumps(json.loads(metadata["decomposition"]) | {field: value})

    result = tg.Decomposition(tg.random.tt((3, 4), ranks=2, rng=0), 0.5, True, tg.Stop.tol)
    _rewritten(path, change, t=result)
    _refused(path, message)


@pytest.mark.parametrize("modes", [[5], [0, 1, 2], [], ["a"], [0.0], None, [10**30]])
def test_modes_of_a_cut_that_do_not_fit(path, modes) -> None:
    cut = tg.CutTensor(np.ones((3, 2)), np.ones((2, 4)), modes=(0,))
    _rewritten(path, _described(modes=modes), t=cut)
    _refused(path, "modes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("array_1"), r"holds the arrays \['array_0', 'array_2'\]"),
        (lambda a: a.update(array_3=np.ones(3)), "array_3"),
        (lambda a: a.update(array_1=np.ones((3, 4, 2))), r"cores\[0\] has right rank 2"),
        (lambda a: a.update(array_1=np.ones((2, 4))), r"cores\[1\] has shape \(2, 4\)"),
        (lambda a: a.update(array_1=np.ones((2, 0, 2))), r"none of length 0"),
        (lambda a: a.update(array_1=np.array(3.0)), r"shape \(\)|damaged"),
        (lambda a: a.update(array_1=np.ones((2, 4, 2), dtype="float32")), "stored as float32.*'float64'"),
        (lambda a: a.update(array_1=np.ones((2, 4, 2), dtype="int64")), "I64|<i8"),
        (lambda a: a.update(array_1=np.ones((2, 4, 2), dtype="uint8")), "U8|stored as uint8"),
        (lambda a: a.update(array_1=np.ones((2, 4, 2), dtype="complex64")), "C64|<c8"),
        (lambda a: a.update(array_1=np.ones((2, 4, 2), dtype="float16")), "F16|<f2"),
    ],
)
def test_arrays_that_do_not_fit(path, change, message) -> None:
    _rewritten(path, change_arrays=change)
    _refused(path, message)


def test_complex_arrays_without_a_last_axis_of_two(path) -> None:
    t = tg.random.tt((3, 4), ranks=2, dtype="complex128", rng=0)
    _rewritten(path, change_arrays=lambda a: a.update(array_0=np.ones((1, 3, 2, 3))), t=t)
    _refused(path, r"complex.*\(1, 3, 2, 3\)")


# Hostile archives: claims that would cost memory or time before they are found out.


def _npy(header: bytes, data: bytes = b"", magic: bytes = b"\x93NUMPY\x01\x00") -> bytes:
    return magic + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "member",
    [
        _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
        _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }", bytes(8)),
        _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': 1, }", bytes(8)),
        _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': 1}", bytes(8)),
        _npy(b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        _npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': " + b"(" * 3000 + b"}", bytes(8)),
        _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1" + b",1" * 99 + b"), }", bytes(8)),
        _npy(b"__import__('os').putenv('A', 'B')"),
        _npy(b"\x00\xff\n"),
        _npy(b"{}" + b" " * 60_000),
        _npy(b"{}", magic=b"\x93NUMPY\x03\x00"),
        b"\x93NUMPY\x01\x00\xff\xff",
        b"",
        b"hello",
    ],
)
def test_hostile_npy_members(tmp_path, member) -> None:
    path = tmp_path / "t.npz"
    tg.save(path, tg.random.tt((3,), ranks=(), rng=0))
    with zipfile.ZipFile(path) as archive:
        metadata = archive.read("metadata.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.npy", metadata)
        archive.writestr("array_0.npy", member)
    _refused(path, r"array_0|damaged")


def test_zip_bombs_and_doubled_names(tmp_path) -> None:
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("array_0.npy", _npy(b"{}", bytes(10**7)))
    _refused(path, "compressed, which tensorring never does")
    np.savez_compressed(path, metadata=np.zeros(3, np.uint8))
    _refused(path, "compressed")
    array = _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", array)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", array)
    _refused(path, "one name")


def test_an_archive_that_claims_more_than_it_has(tmp_path) -> None:
    path = tmp_path / "t.npz"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.npy", b"x" * 10)
    content = bytearray(buffer.getvalue())
    directory = content.index(b"PK\x01\x02")
    for offset in (20, 24):  # the compressed and the plain size in the central directory
        content[directory + offset : directory + offset + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    _refused(path, "more bytes than the file has|damaged")


def test_an_archive_whose_members_are_one_and_the_same(tmp_path) -> None:
    """A thousand entries of the directory for one member: a thousand times its memory, if they were read."""
    path = tmp_path / "t.npz"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "array_0.npy", _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (125,), }", bytes(1000))
        )
    content = buffer.getvalue()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    directory, count = content[start:end] * 1000, (1000).to_bytes(2, "little")
    tail = b"PK\x05\x06" + bytes(4) + count * 2 + len(directory).to_bytes(4, "little") + start.to_bytes(4, "little")
    path.write_bytes(content[:start] + directory + tail + bytes(2))
    _refused(path, "more bytes than the file has")


def test_every_dtype_is_stored(path) -> None:
    for name in _array.FLOATS:
        tg.save(path, tg.random.tt((3, 4), ranks=2, dtype=name, rng=0))
        assert tg.load(path).dtype == name


def test_errors_name_the_path_that_was_given(tmp_path):
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.npz is a folder"):
        tg.save(folder, tg.random.tt((2, 3), ranks=1, rng=0))
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing to save t\.npz"):
        tg.save(tmp_path / "missing" / "t.npz", tg.random.tt((2, 3), ranks=1, rng=0))
