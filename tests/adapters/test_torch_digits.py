"""Trained networks on scikit-learn's digits: what compression without labels and training costs in accuracy."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from torch import nn

pytest.importorskip("tqdm")
from benchmarks import digits, machine, resnet, tables

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")


@pytest.fixture(scope="module")
def cases():
    return digits.cases()


def accuracy(case, model):
    return float(case.right(model).mean())


def test_a_transformer_at_half_its_parameters(cases):
    case = cases["transformer"]
    model = case.dense(seed=0)
    result = tgt.compress(model, case.x[:4], budget=tgt.Budget(parameters=0.5), calibration=case.x[: case.training])
    assert result.report.after.parameters <= 0.5 * result.report.before.parameters
    assert accuracy(case, model) > 0.95
    assert accuracy(case, model) - accuracy(case, result.model) <= 0.02  # one point and one standard error


def test_volumes_at_a_quarter(cases, monkeypatch):
    """Each digit, ever brighter from slice to slice."""
    monkeypatch.setattr("tensorring_torch.calibration.curves._SHARES", (0.4, 0.25, 0.16, 0.1))
    case = cases["volumes"]
    model = case.dense(seed=0)
    result = tgt.compress(model, case.x[:4], budget=tgt.Budget(parameters=0.25), calibration=case.x[:200])
    assert result.report.after.parameters <= 0.25 * result.report.before.parameters
    assert accuracy(case, model) > 0.95
    assert accuracy(case, model) - accuracy(case, result.model) <= 0.015  # one point and half a standard error


def test_a_recurrent_network(cases):
    """Weights alone are looked at: a tolerance of 0.15 stores less and loses two points at most."""
    case = cases["recurrent"]
    model = case.dense(seed=0)
    result = tgt.compress(model, case.x[:4], tol=0.15, minimize="parameters")
    assert result.report.after.parameters < 0.95 * result.report.before.parameters
    assert accuracy(case, model) > 0.9
    assert accuracy(case, model) - accuracy(case, result.model) <= 0.02


# The page made of them.


def test_images_that_are_judged_on_are_no_others(cases):
    for case in cases.values():
        assert len(case.x) == len(case.y) == 1797
        assert case.training == 1200
        kept = case.x[case.training :].flatten(1).unique(dim=0)
        both = torch.cat([kept, case.x[: case.training].flatten(1).unique(dim=0)])
        assert len(both.unique(dim=0)) == len(both), "no image is in both parts"


def test_seeds_tell_the_network(cases):
    case = replace(cases["recurrent"], epochs=1)
    first, again, other = (next(case.dense(seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_vgg_like_network_has_512_channels():
    with torch.device("meta"):
        model = digits.vgg(64)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 256, 512, 512]


def test_a_row_counts_and_pairs():
    right = torch.tensor([1.0, 1, 1, 1, 0, 0, 1, 1]).double(), torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 1]).double()
    row = digits.Row("net", "all", 7, (1000, 250), right, {1: (2.0, 1.0, 2.0), 32: (9.0, 12.0, 18.0)}, 3.4)
    cells = dict(zip(digits.HEAD, row.cells(), strict=True))
    assert cells["parameters"] == "1,000 -> 250"
    assert cells["accuracy, %"].startswith("75.0 -> 62.5 ± ")
    assert row.lost.tolist() == [0, 0, 0, 1, -1, 0, 1, 0]
    expected = 100 * np.std([0, 0, 0, 1, -1, 0, 1, 0], ddof=1) / np.sqrt(8)
    assert cells["points lost"] == f"12.5 ± {expected:.1f}"
    (line,) = digits.means([row, replace(row, parameters=(1000, 500), right=right[::-1])])
    assert dict(zip(digits.MEANS, line, strict=True)) == {
        "network": "net", "asked": "all", "seeds": 2, "× smaller": "3.00", "points lost": "0.00",
        "× as fast, batch 1": "2.00", "× as fast, batch 32": "0.75", "than as given": "1.50",
    }  # fmt: skip


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Few digits and noise for CIFAR images, one share and few turns: the page in seconds."""
    few = {
        name: replace(case, x=case.x[:200], y=case.y[:200], training=150, asked=case.asked[:1])
        for name, case in digits.cases().items()
        if name != "wide volumes"
    }
    few["recurrent"] = replace(
        few["recurrent"], asked=[*few["recurrent"].asked, {"budget": tgt.Budget(parameters=0.1)}]
    )
    monkeypatch.setattr(digits, "cases", lambda: few)
    monkeypatch.setattr(digits, "TURNS", {1: 2, 32: 2})
    monkeypatch.setattr("tensorring_torch.calibration.curves._SHARES", (0.2, 0.05))
    monkeypatch.setattr(machine, "describe", lambda packages: "a machine")
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (96, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, 96)
    np.savez(tmp_path / "cifar10_sample.npz", train_images=images, train_labels=labels)
    return tmp_path


def test_the_page_has_all_networks_and_budgets_are_kept(tiny, monkeypatch, capsys):
    arguments = ["--seeds", "4", "--epochs", "1", "--vgg", "--data", str(tiny), "--width", "4", "--write", "page.md"]
    monkeypatch.setattr(sys, "argv", ["digits", *arguments])
    whole = digits.vgg_case
    in_work = [{"budget": tgt.Budget(macs=0.5)}]  # what time allows differs from run to run
    monkeypatch.setattr(digits, "vgg_case", lambda *which: replace(whole(*which), asked=in_work))
    digits.main()
    text = (tiny / "page.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert "--seeds 4 --vgg --data DIR --width 4 --epochs 1`" in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    found = [dict(zip(digits.HEAD, line, strict=True)) for line in lines if "->" in line[3]]
    asked = ["Budget(parameters=0.5)", "Budget(parameters=0.25)", "tol=0.15, minimize='parameters'", "Budget(macs=0.5)"]
    assert [row["asked"] for row in found] == asked
    assert [row["network"] for row in found] == ["transformer", "3-D CNN, 32 channels", "LSTM", "VGG-like, 32 channels"]
    for row, share in zip(found[:2], (0.5, 0.25), strict=True):
        dense, ours = (int(count.replace(",", "")) for count in re.findall(r"[\d,]+", row["parameters"]))
        assert ours <= share * dense
    assert len(lines) == 2 + 2 * len(asked), "two heads, a line for each, and its means"
    (missed,) = (line for line in text.splitlines() if "out of reach" in line)
    assert missed.startswith("LSTM, seed 4: got Budget(")


def test_budgets_are_named_as_they_are_asked(cases):
    asked = [digits.words(each) for case in cases.values() for each in case.asked]
    assert asked == [
        "Budget(parameters=0.5)", *2 * ["Budget(parameters=0.25)", "Budget(parameters=0.25, latency=1)"],
        "tol=0.15, minimize='parameters'",
    ]  # fmt: skip


def test_cifar_images_are_held_out(tiny):
    case = digits.vgg_case(tiny, 4)
    x, _ = resnet.images(tiny, "train")
    assert case.training == 48
    assert [digits.words(each) for each in case.asked] == ["Budget(latency=0.5)"]
    assert torch.equal(case.x.flatten(1).sum(1).sort().values, x.flatten(1).sum(1).sort().values)
    assert torch.equal(case.x, digits.vgg_case(tiny, 4).x)


def test_a_network_without_its_data_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["digits", "--vgg"])
    with pytest.raises(SystemExit):
        digits.main()
    assert "--vgg needs --data DIR" in capsys.readouterr().err
