"""The README's Python code runs as it stands, block after block."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 2


def test_readme_code_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    assert names["result"].error <= 1e-6
    assert "TTTensor of shape 40 × 50 × 60" in capsys.readouterr().out
