"""Figures of benchmarks that outlive the folder they were made in."""

import json

from benchmarks.cache import Cache


def test_a_folder_counts_before_its_record(tmp_path):
    folder, record = tmp_path / "cache", tmp_path / "record.jsonl"
    folder.mkdir()
    assert Cache(folder, record).all() == []
    first = Cache(folder, record)
    first.keep("b", {"accuracy": 0.5})
    first.keep("a", {"accuracy": 0.25})
    assert not record.exists()
    first.write_record()
    assert [json.loads(line) for line in record.read_text().splitlines()] == [
        {"name": "a", "accuracy": 0.25}, {"name": "b", "accuracy": 0.5},
    ]  # fmt: skip
    (folder / "a.json").unlink()
    first.keep("b", {"accuracy": 0.75})
    first.keep("c", {})
    assert first.figures("a") == {"accuracy": 0.25}
    assert first.figures("b") == {"accuracy": 0.75}
    assert first.figures("d") is None
    assert [name for name, _ in first.all()] == ["a", "b", "c"]
    first.write_record()
    assert Cache(tmp_path / "gone", record).all() == first.all()
    assert [name for name, _ in Cache(folder).all()] == ["b", "c"]


def test_without_a_record_none_is_written(tmp_path):
    cache = Cache(tmp_path)
    cache.keep("a", {})
    cache.write_record()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
