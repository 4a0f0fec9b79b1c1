"""What is told of a network: as a table, as Markdown, as plain numbers."""

import json
import re

import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.report import Compressed, Cost, LayerReport, Report
from torch import nn

DENSE = LayerReport("stem", "dense", (), Cost(448, 110_592), Cost(448, 110_592), reason="excluded")
CHAIN = LayerReport("body.0", "cut(0, 3)", (13,), Cost(2_320, 589_824, 2e-3), Cost(1_160, 294_912, 1.6e-3), 0.5,
                    metric_error=0.25, degeneracy=1.5, reason="fewest multiply-adds of 7 fits")  # fmt: skip
REPORT = Report((DENSE, CHAIN), Cost(3_000, 800_000, 5e-3), Cost(1_840, 505_088, 4e-3), ("of the whole", "and more"))


def test_the_table_reads_so():
    head, dense, chain, whole, *notes = str(REPORT).splitlines()
    titles = ["layer", "form", "ranks", "error", "in metric", "degeneracy"]
    titles += ["parameters", "×", "multiply-adds", "×", "milliseconds", "×", "because"]
    assert re.split(" {2,}", head) == titles
    assert re.split(" {2,}", dense) == ["stem", "dense", "448", "110,592", "excluded"]
    body = [
        "body.0",
        "cut(0, 3)",
        "13",
        "0.500",
        "0.250",
        "1.50",
        "2,320 -> 1,160",
        "2.00",
        "589,824 -> 294,912",
        "2.00",
    ]
    assert re.split(" {2,}", chain) == [*body, "2.000 -> 1.600", "1.25", "fewest multiply-adds of 7 fits"]
    totals = ["3,000 -> 1,840", "1.63", "800,000 -> 505,088", "1.58", "5.000 -> 4.000", "1.25"]
    assert re.split(" {2,}", whole) == ["whole network", *totals]
    assert notes == ["note: of the whole", "note: and more"]
    for words in ("ranks", "because"):  # to the left, numbers to the right
        assert chain[head.index(words) - 1] == " "
        assert chain[head.index(words)] != " "
    for number in ("parameters", "milliseconds"):
        end = head.index(number) + len(number)
        assert chain[end : end + 2] == whole[end : end + 2] == "  "
        assert " " not in chain[end - 1] + whole[end - 1]


def test_columns_that_would_be_empty_are_left_out():
    report = Report((DENSE,), DENSE.before, DENSE.after)
    assert str(report).splitlines() == [
        "layer          form   parameters  multiply-adds  because",
        "stem           dense         448        110,592  excluded",
        "whole network                448        110,592",
    ]


def test_markdown_is_a_table_and_a_list():
    head, ruler, *rows = REPORT.to_markdown().splitlines()
    assert head.startswith("| layer | form | ranks | error | in metric | degeneracy | parameters | × | multiply-adds |")
    assert ruler.startswith("| --- | --- | --- | --: | --: | --: | --: | --: |")
    assert rows[3:] == ["", "- of the whole", "- and more"]
    assert {row.count("|") for row in (head, ruler, *rows[:3])} == {14}
    named = Report((LayerReport("a|b", "dense", (), Cost(1, 1), Cost(1, 1)),), Cost(1, 1), Cost(1, 1))
    assert "a\\|b" in named.to_markdown()
    assert "- " not in named.to_markdown().splitlines()[-1]


def test_plain_numbers():
    told = REPORT.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["after"] == {"parameters": 1_840, "multiply_adds": 505_088, "seconds": 4e-3}
    assert told["layers"][0]["after"]["seconds"] is None
    assert told["layers"][1]["ranks"] == [13]
    assert told["layers"][1]["metric_error"] == 0.25
    assert told["notes"] == ["of the whole", "and more"]
    assert told["interrupted"] is False


def test_nothing_can_be_changed_and_the_totals_stand_in_the_repr():
    compressed = Compressed(nn.ReLU(), REPORT)
    told = "parameters 3,000 -> 1,840, multiply-adds 800,000 -> 505,088, milliseconds 5.000 -> 4.000"
    assert repr(compressed) == f"Compressed(ReLU: {told})"
    for frozen, name in ((compressed, "model"), (REPORT, "notes"), (CHAIN, "error")):
        with pytest.raises(AttributeError):
            setattr(frozen, name, None)


costs = st.builds(Cost, st.integers(0, 10**9), st.integers(0, 10**12), st.none() | st.floats(1e-6, 10))
layers = st.builds(LayerReport, st.text("abc.|_", max_size=12), st.sampled_from(["dense", "tr"]),
                   st.lists(st.integers(1, 99), max_size=4).map(tuple), costs, costs, st.floats(0, 1),
                   st.none() | st.floats(0, 1), st.none() | st.floats(0, 9e9), st.text("x |", max_size=9))  # fmt: skip


@given(st.lists(layers, max_size=4), costs, costs, st.lists(st.just("so"), max_size=2), st.booleans())
def test_every_report_can_be_told(listed, before, after, notes, interrupted):
    report = Report(tuple(listed), before, after, tuple(notes), interrupted)
    assert len(str(report).splitlines()) == len(listed) + 2 + len(notes)
    table = report.to_markdown().splitlines()[: len(listed) + 3]
    assert len({row.replace("\\|", "").count("|") for row in table}) == 1
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()


def test_of_a_real_network():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    result = tgt.compress(model, torch.zeros(2, 3, 8, 8), tol=0.6, formats=["tr"])
    lines = str(result.report).splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["layer", "form", "ranks", "error"]
    assert max(map(len, lines)) < 180
    assert [layer.name for layer in result.report.layers] == ["0", "3"]
    assert all(layer.reason for layer in result.report.layers)
    assert str(tgt.compress(nn.Linear(64, 64), torch.zeros(64), tol=0.9).report).splitlines()[1].startswith("(model)")
