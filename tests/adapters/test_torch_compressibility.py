"""What truncation does to a network: spectra, ranks and scores against dense weights truncated by hand."""

import json
import math

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tensorring as tg

torch.set_num_threads(1)

# The cuts of a canonical weight, by its order.
CUTS = {2: 1, 3: 3, 4: 7, 5: 15}
LAYERS = {
    "conv1": lambda: nn.Conv1d(4, 6, 3, padding=1),
    "conv2": lambda: nn.Conv2d(4, 6, (3, 2), stride=2, bias=False),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "pointwise": lambda: nn.Conv2d(4, 6, 1),
    "conv3": lambda: nn.Conv3d(2, 3, (2, 3, 2)),
    "up1": lambda: nn.ConvTranspose1d(4, 6, 3, stride=2),
    "up2": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, output_padding=1, stride=2),
    "linear": lambda: nn.Linear(5, 4),
    "embedding": lambda: nn.Embedding(7, 4),
}


def canonical(layer):
    """Independently of the package: outputs first, group by group."""
    w = layer.weight.detach()
    if isinstance(layer, nn.Embedding):
        return w.T
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        return torch.cat([part.transpose(0, 1) for part in w.chunk(layer.groups)])
    return w


def spectrum(weight, modes):
    """The singular values of an unfolding, by LAPACK in double precision."""
    x = weight.to(torch.complex128 if weight.is_complex() else torch.float64).numpy()
    moved = np.transpose(x, (*modes, *(k for k in range(x.ndim) if k not in modes)))
    return np.linalg.svd(moved.reshape(math.prod(x.shape[k] for k in modes), -1), compute_uv=False)


def sides(shape, modes):
    rows = math.prod(shape[k] for k in modes)
    return rows, math.prod(shape) // rows


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    ).eval()


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_cut_of_every_kind_of_layer(kind, dtype):
    torch.manual_seed(1)
    layer = LAYERS[kind]().to(dtype)
    layer.weight.data = torch.randn_like(layer.weight)
    weight, seen = canonical(layer), []

    def evaluate(model):
        seen.append(canonical(model))
        return len(seen) - 1

    losses, wide = (0.05, 0.5, 0.9), torch.complex128 if dtype.is_complex else torch.float64
    found = tgt.compressibility(layer, evaluate=evaluate, losses=losses)
    assert len(found.cuts) == CUTS[weight.ndim]
    assert torch.equal(seen[0], weight)
    slack = 8 * torch.finfo(dtype).eps
    for cut in found.cuts:
        assert cut.shape == tuple(weight.shape)
        values = spectrum(weight, cut.modes)
        size = np.linalg.norm(values)
        for each, asked in zip(cut.truncations, losses, strict=True):
            best = np.linalg.norm(values[each.rank :]) / size
            assert each.loss == pytest.approx(best, abs=1e-5)
            assert each.asked == asked >= each.loss - 1e-5
            assert each.rank == 1 or np.linalg.norm(values[each.rank - 1 :]) > (asked - 1e-5) * size
            assert each.parameters == each.rank * sum(sides(weight.shape, cut.modes))
            # Eckart and Young: of all weights of this rank a nearest one. Where values tie there are several.
            got = seen[int(each.score)]
            assert got.dtype == dtype
            assert np.linalg.norm(spectrum(got, cut.modes)[each.rank :]) <= slack * size
            assert np.linalg.norm(spectrum(got.to(wide) - weight.to(wide), cut.modes)) == pytest.approx(
                best * size, abs=slack * size
            )


def test_the_network_is_as_it_was_and_what_is_scored_is_a_copy_in_eval_mode():
    model = network().train()
    model[3].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held, changed = [], []

    def evaluate(copy):
        assert not any(module.training for module in copy.modules())
        assert copy[3].weight.requires_grad is False
        assert all(a is not b for a, b in zip(copy.parameters(), model.parameters(), strict=True))
        held.append(copy)
        changed.append([name for name, value in copy.state_dict().items() if not torch.equal(value, before[name])])
        return 0.0

    tgt.compressibility(model, evaluate=evaluate, losses=[0.6])
    assert model.training
    assert not model[3].weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert changed[0] == []
    assert all(len(names) == 1 and names[0].endswith("weight") for names in changed[1:])
    assert {names[0] for names in changed[1:]} == {"0.weight", "3.weight", "5.weight"}
    assert all(torch.equal(value, before[name]) for name, value in held[-1].state_dict().items()), "all put back"


@given(st.lists(st.floats(0, 0.99), min_size=1, max_size=4), st.booleans())
def test_ranks_fall_as_losses_grow_and_each_rank_is_scored_once(losses, zero):
    model = nn.Sequential(nn.Linear(4, 6), nn.Conv2d(2, 3, 3))
    if zero:
        nn.init.zeros_(model[1].weight)
    calls = []
    found = tgt.compressibility(model, evaluate=lambda copy: calls.append(0) or 1.0, losses=losses)
    kinds = 0
    for cut in found.cuts:
        assert [each.asked for each in cut.truncations] == sorted(set(losses))
        ranks = [each.rank for each in cut.truncations]
        assert ranks == sorted(ranks, reverse=True)
        assert all(0 <= each.loss <= each.asked + cut.spectrum.floor for each in cut.truncations)
        assert all(math.isfinite(each.loss) and each.score == 1.0 for each in cut.truncations)
        kinds += len(set(ranks) - {len(cut.spectrum.values)})
    assert len(calls) == kinds + 1


def test_without_a_score_nothing_is_truncated(monkeypatch):
    monkeypatch.setattr(tg, "cut_svd", None)
    found = tgt.compressibility(network())
    assert found.score is None
    assert {each.score for cut in found.cuts for each in cut.truncations} == {None}


def test_layers_are_chosen_and_the_others_told():
    model = network()
    model.add_module("wise", nn.Conv2d(4, 4, 3, groups=4))
    model.add_module("tied", model[5])
    found = tgt.compressibility(model, exclude="3")
    assert {cut.layer for cut in found.cuts} == {"0"}
    assert [note.split(" is left out: ")[0] for note in found.notes] == ["3", "5", "wise"]
    assert {cut.layer for cut in tgt.compressibility(model, include=nn.Conv2d).cuts} == {"0", "3"}


def test_the_callback_counts_and_an_interrupt_returns_what_was_done():
    told, model = [], network()
    whole = tgt.compressibility(model, callback=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == list(range(1, 16))
    assert {total for _, total, _ in told} == {15}
    assert told[0][2] == "0 O | I h w"
    assert told[-1][2] == "5 O | I"

    def stop(done, total, name):
        if done == 9:
            raise KeyboardInterrupt

    found = tgt.compressibility(model, callback=stop)
    assert found.interrupted
    assert not whole.interrupted
    assert found.notes[-1] == "interrupted after 9 of 15 cuts"
    assert [cut.to_dict() for cut in found.cuts] == [cut.to_dict() for cut in whole.cuts[:9]]


def test_in_inference_mode_as_outside_and_with_the_channels_last():
    plain = tgt.compressibility(network(), evaluate=lambda copy: copy(torch.ones(1, 3, 6, 6)).detach().sum())
    with torch.inference_mode():
        model = network().to(memory_format=torch.channels_last)
        found = tgt.compressibility(model, evaluate=lambda copy: copy(torch.ones(1, 3, 6, 6)).detach().sum())
    scores, expected = ([each.score for cut in some.cuts for each in cut.truncations] for some in (found, plain))
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(set(scores)) > 10


def test_cuts_are_named_by_letters():
    names = [cut.name for cut in tgt.compressibility(nn.Conv3d(2, 3, (2, 3, 2))).cuts]
    assert names[:6] == ["O | I d h w", "I | O d h w", "d | O I h w", "h | O I d w", "w | O I d h", "O I | d h w"]
    assert [cut.name for cut in tgt.compressibility(nn.Conv1d(2, 3, 2)).cuts] == ["O | I w", "I | O w", "w | O I"]


@pytest.mark.parametrize("at", [0, 1, 4])
def test_an_interrupt_while_scoring(at):
    calls = []

    def evaluate(copy):
        calls.append(0)
        if len(calls) > at:
            raise KeyboardInterrupt
        return 1.0

    found = tgt.compressibility(network(), evaluate=evaluate, losses=[0.9])  # each cut is truncated
    assert found.interrupted
    assert len(found.cuts) == max(0, at - 1)
    assert str(found)
    assert found.to_markdown()


def test_the_table_its_markdown_and_its_numbers():
    found = tgt.compressibility(network(), evaluate=lambda copy: 0.5, losses=[0.7, 0.2])
    head, *rows = str(found).splitlines()
    assert [" ".join(head.split())] == ["layer shape cut rank rank at 0.2 score rank at 0.7 score"]
    assert rows[0].split()[:6] == ["0", "6×3×3×3", "O", "|", "I", "h"]
    assert rows[-1] == "note: the network as it is scores 0.5"
    assert len(rows) == len(found.cuts) + 1
    lines = found.to_markdown().splitlines()
    assert lines[1] == "| --- | --- | --- | --: | --: | --: | --: | --: |"
    assert lines[2].startswith("| 0 | 6×3×3×3 | O \\| I h w | 6 | ")
    again = json.loads(json.dumps(found.to_dict()))
    assert again["cuts"][4]["cut"] == "O I | h w"
    assert again["cuts"][4]["modes"] == [0, 1]
    assert again["cuts"][4]["truncations"][1] == found.cuts[4].truncations[1]._asdict()
    assert sum(value**2 for value in again["cuts"][4]["values"]) == pytest.approx(
        float((network()[0].weight.detach() ** 2).sum())
    )
    assert again["score"] == 0.5


def test_the_picture():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    scored = tgt.compressibility(network(), evaluate=lambda copy: 0.5, losses=[0.2, 0.7])
    _, ax = plt.subplots()
    assert scored.plot(ax) is ax
    assert len(ax.lines) == len(scored.cuts)
    assert ax.get_ylabel() == "score"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "5"]
    plain = tgt.compressibility(nn.Linear(3, 2)).plot()
    assert [text.get_text() for text in plain.get_legend().get_texts()] == ["(model)"]
    assert plain.get_ylabel() == "share of the rank"
    assert tgt.Compressibility(()).plot().lines[:] == []
    plt.close("all")


def test_refusals():
    model = network()
    with pytest.raises(TypeError, match="got a int for the model"):
        tgt.compressibility(3)
    for losses in ([], [1.0], [-0.1], ["a"], "0.1", [math.nan]):
        with pytest.raises(ValueError, match=r"got losses=.*; they are relative errors, each in \[0, 1\): \(0.1, 0.3"):
            tgt.compressibility(model, losses=losses)
    with pytest.raises(TypeError, match=r"got evaluate=0\.5; it is a function that takes a network"):
        tgt.compressibility(model, evaluate=0.5)
    with pytest.raises(ValueError, match="got a ReLU in which no weight can be truncated: it has no convolution"):
        tgt.compressibility(nn.ReLU())
    with pytest.raises(
        ValueError, match=r"got a .*Linear in which no weight .*: \(model\) is left out: its weight is comp"
    ):
        tgt.compressibility(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="matches no module"):
        tgt.compressibility(model, include="nothing")
    with pytest.raises(TypeError, match="got a str from evaluate for the network as it is; it returns a number"):
        tgt.compressibility(model, evaluate=lambda copy: "good")
    scores = iter([1.0, math.nan])
    with pytest.raises(
        ValueError, match=r"got nan from evaluate for '0' of rank \d along O \| I h w; it returns a numb"
    ):
        tgt.compressibility(model, evaluate=lambda copy: next(scores))
    with pytest.raises(ZeroDivisionError) as failed:
        tgt.compressibility(model, evaluate=lambda copy: 1 / 0)
    assert failed.value.__notes__ == ["in evaluate, called with the network as it is"]
    model[3].weight.data[1, 2, 0, 1] = math.inf
    with pytest.raises(ValueError, match=r"x\[1, 2, 0, 1\] is inf") as failed:
        tgt.compressibility(model)
    assert failed.value.__notes__ == ["in layer '3'"]
