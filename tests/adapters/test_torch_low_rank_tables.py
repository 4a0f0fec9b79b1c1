"""The tables of the tutorial on training for low rank: a row for each way, a cell for each cut."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("tqdm")
pytest.importorskip("sklearn")
from benchmarks import low_rank
from benchmarks.low_rank import Digits, cell


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(low_rank, "RATIOS", (4,))
    monkeypatch.setattr(low_rank, "DECAYED", ((1, 5e-3), (2, 5e-3)))
    monkeypatch.setattr(low_rank, "ORTHOGONAL", ((3, 1e-2),))


def test_both_tables_are_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["low_rank", "--seeds", "0", "1", "--epochs", "2", "--clip", "0"])
    low_rank.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line and "---" not in line]
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == [
        "", "dense, decay 0.005", "two factors, decay 0.005",
        "orthogonal factors, VBMF", "three factors, penalty 0.01",
    ]  # fmt: skip
    assert rows[0][1:] == ["whole", "÷ 4"]
    for row in rows[1:3]:
        # The whole network has learned something in two epochs, and the worst of two seeds is not above their mean.
        assert float(row[1].split()[0]) > 40
        assert all(float(each.split("(")[1][:-1]) <= float(each.split()[0]) for each in row[1:])
    assert float(rows[4][4].removeprefix("÷ ")) > 1


def test_images_for_the_count_are_not_trained_on(monkeypatch):
    digits, seen = Digits.shuffled(3), []

    def fine_tune(model, teacher, data, **_):
        seen.append(data)
        return SimpleNamespace(model=model)

    monkeypatch.setattr(low_rank.tgt, "fine_tune", fine_tune)
    digits.trained(digits.start(1), None)
    ((images, labels),) = seen
    assert len(images) == len(labels) == low_rank.TRAINING < len(digits.images)
    assert torch.equal(images, digits.images[: low_rank.TRAINING])


def test_a_cell_is_the_mean_and_the_worst():
    assert cell((0.5, 0.75, 1.0)) == "75.0 (50.0)"
