"""The least rank of each layer that keeps a score, and what is said where there is none."""

import copy

import pytest
import tensorring_torch as tgt
import torch
from torch import nn

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 14, 3, padding=1),
        nn.ReLU(), nn.Conv2d(14, 12, 3), nn.Flatten(), nn.Linear(12 * 9, 20, bias=False),
    ).eval()  # fmt: skip


X = torch.randn(48, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def size(model):
    return sum(p.numel() for p in model.parameters())


def test_the_smallest_rank_that_keeps_the_score_is_found():
    """Against all ranks one by one; the score falls as the error grows."""
    model = network()
    y = model(X).detach()

    def evaluate(model):
        assert not model.training
        return -float((model(X).detach() - y).norm() / y.norm())

    told = []
    found = tgt.search_ranks(
        model.train(),
        X[:1],
        evaluate=evaluate,
        max_drop=0.5,
        include=["3", "7"],
        callback=lambda *args: told.append(args),
    )
    model.eval()
    assert told == [(1, 2, "3"), (2, 2, "7")]
    assert list(found) == ["3", "7"]
    for name, rank in found.items():
        scores = {}
        for tried in (rank - 1, rank):
            other = copy.deepcopy(model)
            if tried:
                other[int(name)] = tgt.decompose_layer(model[int(name)], format="cp", ranks=tried)
                scores[tried] = evaluate(other)
        assert scores[rank] >= -0.5
        assert scores.get(rank - 1, -1.0) < -0.5


def test_layers_of_which_no_rank_will_do_stay_dense():
    calls = []

    def evaluate(model):
        calls.append(size(model))
        return float(size(model) == size(network()))

    assert tgt.search_ranks(network(), X[:1], evaluate=evaluate, include=["0", "3"], max_drop=0.0) == {}
    assert max(calls[1:]) < size(network()), "only what is smaller is tried"
    assert len(calls) < 1 + 2 * 8
    assert tgt.search_ranks(network(), X[:1], evaluate=lambda model: 1, include="3", format="cut") == {"3": 1}


def test_an_interrupt_returns_the_layers_done():
    def stop(done, total, name):
        raise KeyboardInterrupt

    assert tgt.search_ranks(network(), X[:1], evaluate=lambda model: 1, include=["0", "3"], callback=stop) == {"0": 1}


def test_errors_of_the_search():
    def search(model=None, **options):
        return tgt.search_ranks(model or network(), X[:1], **{"evaluate": lambda model: 1.0, "include": "0"} | options)

    for options, error, words in [
        ({"evaluate": 3}, TypeError, "got evaluate=3; it is a function"),
        ({"max_drop": -0.1}, ValueError, "got max_drop=-0.1; it is how much lower"),
        ({"max_drop": "a"}, ValueError, "got max_drop='a'"),
        ({"max_drop": float("nan")}, ValueError, "got max_drop=nan"),
        ({"format": "tucker"}, ValueError, "got format='tucker'; known formats are cp, cut"),
        ({"evaluate": lambda model: float("nan")}, ValueError, "got nan from evaluate for the dense network"),
        ({"evaluate": lambda model: float("inf")}, ValueError, "got inf from evaluate for the dense network"),
        ({"include": None, "exclude": "*"}, ValueError, "without a layer to decompose .'0': excluded"),
        ({"model": 3}, TypeError, "got a int for the model"),
    ]:
        with pytest.raises(error, match=words):
            search(**options)
    bad = network()
    with torch.no_grad():
        bad[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="nan") as caught:
        search(bad)
    assert "in layer '0'" in caught.value.__notes__
