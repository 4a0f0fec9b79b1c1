"""The Python code of README and tutorials runs as it stands, block after block, and prints what they show."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = [ROOT / "README.md", *sorted(TUTORIALS.glob("*.md"))]
# A block of code, and the output shown right below it.
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.DOTALL)


def _blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def _skeleton(text: str) -> str:
    """Words without numbers and line breaks: numbers may differ from machine to machine."""
    return re.sub(r"-?\d[\d.,]*(e[+-]?\d+)?", "#", " ".join(text.split()))


def _run(page: Path, capsys) -> tuple[dict[str, object], str]:
    """The names that a page leaves behind, and all that it printed."""
    names: dict[str, object] = {}
    printed = []
    for code, shown in _blocks(page):
        exec(compile(code, str(page), "exec"), names)
        printed.append(capsys.readouterr().out)
        if shown:
            assert _skeleton(printed[-1]) == _skeleton(shown)
    return names, "".join(printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_there_are_blocks_to_run(page) -> None:
    assert len(_blocks(page)) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_readme_code_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names, printed = _run(ROOT / "README.md", capsys)
    assert names["result"].error <= 1e-6
    assert "TTTensor of shape 40 × 50 × 60" in printed


def test_tutorial_code_prints_what_it_shows(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names, _ = _run(TUTORIALS / "when_cp_degenerates.md", capsys)
    plain, fixed, three, enough = (names[name] for name in ("plain", "fixed", "three", "enough"))
    assert fixed.error <= 1.02 * plain.error * (1 + 1e-10)
    assert three.error < plain.error
    assert enough.converged
    before, after = names["ratios"]
    assert before > 10 * after, "the ring"


def test_tutorial_on_networks_prints_what_it_shows(tmp_path, monkeypatch, capsys) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    names, _ = _run(TUTORIALS / "compress_a_network.md", capsys)
    dense, small, blind = (names["accuracy"](model, names["test"]) for model in (
        names["model"], names["small"].model, names["blind"].model
    ))  # fmt: skip
    assert small > blind + 0.05
    assert small > dense - 0.05
    assert names["small"].report.after.parameters * 8 <= names["small"].report.before.parameters
    tiny, tuned, rings, taught = (
        names["accuracy"](names[name].model, names["test"]) for name in ("tiny", "tuned", "rings", "taught")
    )
    assert tuned > tiny + 0.03
    assert taught > rings + 0.3
    scores = [names["accuracy"](model, names["validation"]) for model in (names["best"].model, names["model"])]
    assert scores[0] >= scores[1] - 0.01 - 1e-6


def test_tutorial_on_low_rank_prints_what_it_shows(tmp_path, monkeypatch, capsys) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    names, _ = _run(TUTORIALS / "train_for_low_rank.md", capsys)
    dense, plain, trained, folded, orthogonal, cut, tuned = names["scores"]
    assert min(dense, trained, orthogonal) > 0.94
    assert folded > trained - 0.02
    assert folded > plain
    assert tuned > max(0.94, cut - 0.02)
    before, after = names["counts"]
    assert 3 * after < before


def test_tutorial_on_steps_prints_what_it_shows(tmp_path, monkeypatch, capsys) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    names, _ = _run(TUTORIALS / "compress_step_by_step.md", capsys)
    dense = names["accuracy"](names["dense"])
    assert names["accuracy"](names["schedule"].model) > dense - 0.05
    assert names["accuracy"](names["musco"]) > dense - 0.1
    assert names["accuracy"](names["small"]) > dense - 0.1
