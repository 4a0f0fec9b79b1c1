"""The study of ways to small networks, on a tiny network: budgets, choices, what is repeated, the page, the picture."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tensorring_torch as tgt
import torch
from torch import nn

pytest.importorskip("tqdm")
from benchmarks import digits_training, digits_training_page, digits_training_ways, machine, tables
from benchmarks.cache import Cache
from benchmarks.digits_training_networks import CHOICE, VALIDATION, Attention, studies
from benchmarks.digits_training_ways import WAYS, Bench, asked, folded, merged, tried
from benchmarks.networks import parameters

torch.set_num_threads(1)


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.fixture(scope="module")
def whole():
    return studies()


@pytest.fixture(scope="module")
def study(whole):
    """An epoch of a small network on 300 images, with more than one setting."""
    first = whole["connected"]
    case = replace(first.case, x=first.case.x[:400], y=first.case.y[:400], training=300, epochs=1, make=small)
    return replace(first, case=case, rates=(0.1,), decays=(1e-3, 1e-2))


@pytest.fixture(autouse=True, scope="module")
def few_ratios():
    """Ranks of one are too many for the small network at more."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (digits_training_ways, digits_training_page):
            patch.setattr(module, "RATIOS", (2, 4))
        yield


@pytest.fixture
def bench(study):
    return Bench(study, 3, tried(study, "dense")[0])


# What is trained on, and what is looked at.


def test_settings_are_chosen_by_training_images_alone(whole):
    for study in whole.values():
        case, choosing = study.case, study.choosing().case
        assert (case.training, len(case.y)) == (1200, 1797)
        assert torch.equal(choosing.x, case.x[:1200])
        assert torch.equal(choosing.y, case.y[:1200])
        assert choosing.training == 1200 - VALIDATION


def test_seeds_of_the_choice_are_no_others(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["digits_training", "--cache", str(tmp_path), "--seeds", "0", str(CHOICE[1])])
    with pytest.raises(SystemExit):
        digits_training.main()
    assert "those of the choice of settings" in capsys.readouterr().err


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_that_of_torch(heads):
    torch.manual_seed(0)
    ours, theirs = Attention(8, heads).double(), nn.MultiheadAttention(8, heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in (ours.query, ours.key, ours.value)]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in (ours.query, ours.key, ours.value)]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], rtol=0, atol=1e-12)


def test_all_networks_tell_ten_classes_and_nothing_hides_from_expand(whole):
    for study in whole.values():
        model = study.case.make().eval()
        x = study.case.x[:2]
        assert model(x).shape == (2, 10)
        layers = [name for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
        wide = tgt.expand(model)
        assert all(len(wide.get_submodule(name)) == 2 for name in layers)
        assert study.head == layers[-1]
        torch.testing.assert_close(merged(wide)(x), model(x), rtol=1e-4, atol=1e-5)


# The ways.


@pytest.mark.parametrize("way", WAYS)
def test_every_way_keeps_its_ratio(bench, way):
    count, x = parameters(small()), bench.case.x[:5]
    made = list(WAYS[way](bench, tried(bench.study, way)[-1], asked(way)))
    assert {each.ratio for each in made} == set(asked(way))
    assert len({(each.row, each.ratio) for each in made}) == len(made)
    for each in made:
        assert each.row in digits_training_page.TITLES
        assert parameters(each.model) * (each.ratio or 1) <= count
        assert not each.model.training
        assert each.model(x).isfinite().all()
        assert parameters(each.before) in (count, parameters(each.model))


def test_folded_finds_the_least_tolerance():
    """Ranks and parameters counted again from singular values."""
    torch.manual_seed(1)
    model = small()
    layers = [part for part in model if isinstance(part, nn.Linear)]

    def count(tol):
        total = 0
        for layer in layers:
            values = torch.linalg.svdvals(layer.weight.detach().double())
            left = torch.cat([values.square().flip(0).cumsum(0).flip(0), torch.zeros(1)]).sqrt() / values.norm()
            rank = int((left > tol).sum())
            total += min(rank * sum(layer.weight.shape), layer.weight.numel()) + len(layer.bias)
        return total

    for ratio in (1.5, 3, 5):
        most = parameters(model) / ratio
        found, tol = folded(tgt.expand(model), most)
        assert parameters(found) == count(tol) <= most
        assert count(tol - 2.0**-digits_training_ways.HALVINGS) > most


def test_a_fold_out_of_reach_is_refused():
    with pytest.raises(ValueError, match=r"got most=100, out of reach: \d+ parameters are left at tol=0.99"):
        folded(tgt.expand(small()), 100)


def test_dense_networks_are_trained_once(bench, monkeypatch):
    first, second = ({"lr": 0.1, "weight_decay": decay} for decay in (1e-3, 1e-2))
    model, other = bench.dense(first), bench.dense(second)
    assert not torch.equal(model[1].weight, other[1].weight)
    monkeypatch.setattr(tgt, "fine_tune", None)
    assert bench.dense(dict(reversed(first.items()))) is model


def test_an_interrupt_ends_the_study(bench, monkeypatch):
    monkeypatch.setattr(tgt, "fine_tune", lambda *args, **options: SimpleNamespace(stop="interrupted"))
    with pytest.raises(KeyboardInterrupt):
        bench.trained(bench.start())


# Choices, the cache, the page.


def test_the_first_of_the_best_is_chosen():
    def row(name, ratio, right):
        return {"row": name, "ratio": ratio, "right": right}

    scored = [
        [row("a", 2, 0.5), row("a", 2, 0.7), row("b", None, 0.1)],  # two seeds of a
        [row("a", 2, 0.75), row("a", 2, 0.5), row("b", None, 0.1)],
        [row("a", 2, 0.75), row("a", 2, 0.5), row("b", None, 0.0)],
    ]
    assert digits_training.best(scored) == {("a", 2): 1, ("b", None): 0}
    assert digits_training.best([]) == {}


@pytest.fixture(scope="module")
def filled(study, tmp_path_factory):
    """What `main` leaves of one network, with one seed for the choice and two seeds; and `main` to be called again."""
    folder = tmp_path_factory.mktemp("study")
    spectra = [(title, *(each and (each[0], min(each[1] or 0, 4) or None) for each in rows))
               for title, *rows in digits_training_page.SPECTRA]  # fmt: skip
    words = ["--cache", str(folder / "cache"), "--network", "connected", "--seeds", "0", "1", "--write", "page.md"]
    with pytest.MonkeyPatch.context() as patch:
        for module in (digits_training, digits_training_page):
            patch.setattr(module, "studies", lambda: {"connected": study})
            patch.setattr(module, "CHOICE", CHOICE[:1])
        patch.setattr("benchmarks.digits_training_networks.VALIDATION", 60)
        patch.setattr(digits_training_ways, "HALVINGS", 6)
        patch.setattr(digits_training_page, "JUDGED", 4)
        patch.setattr(digits_training_page, "SPECTRA", spectra)
        patch.setattr(machine, "describe", lambda packages: "a machine.")
        patch.setattr(tables, "DOCS", folder)
        patch.setattr(sys, "argv", ["digits_training", *words])
        digits_training.main()
        yield folder


def test_each_row_looks_once_at_the_test_images(filled):
    rows = digits_training_page.rows_of([unit for _, unit in Cache(filled / "cache").all()])
    every = [(row["row"], row["ratio"], row["seed"]) for row in rows]
    assert len(set(every)) == len(every)
    alone = {"dense": (1,), "orthogonal": (None,), "orthogonal, trained on": (None,)}
    wanted = [(row, ratio) for row in digits_training_page.TITLES for ratio in alone.get(row, (2, 4))]
    assert set(every) == {(*each, seed) for each in wanted for seed in (0, 1)}


def test_the_page(filled):
    text = (filled / "page.md").read_text(encoding="utf-8")
    assert "of 100 test images" in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    for row, title in digits_training_page.TITLES.items():
        cells = next(line for line in lines if title in line[:2])
        assert all(cells[1:]), f"{row} has a figure for each ratio"
    rows = digits_training_page.rows_of([unit for _, unit in Cache(filled / "cache").all()])
    right = [100 * row["right"] for row in rows if (row["row"], row["ratio"]) == ("ring", 4)]
    (cells,) = (line for line in lines if line[0] == digits_training_page.TITLES["ring"])
    assert cells[2] == f"{sum(right) / 2:.1f} ({min(right):.1f}–{max(right):.1f})"


def test_what_is_there_is_not_made_again(filled, monkeypatch, capsys):
    monkeypatch.setattr(tgt, "fine_tune", None)
    digits_training.main()
    assert capsys.readouterr().out == (filled / "page.md").read_text(encoding="utf-8")


def test_the_picture(filled):
    pytest.importorskip("matplotlib").use("svg")
    from benchmarks import digits_training_plot

    units = [unit for _, unit in Cache(filled / "cache").all()]
    digits_training_plot.draw(digits_training_page.rows_of(units), filled / "picture.svg")
    assert "<svg" in (filled / "picture.svg").read_text(encoding="utf-8")


def test_the_same_seed_the_same_row(study, tmp_path):
    def made(folder, seed):
        (tmp_path / folder).mkdir()
        bench = Bench(study, seed, tried(study, "dense")[0])
        return [
            digits_training.rows_with(Cache(tmp_path / folder), "n", bench, way, 0, {}) for way in ("dense", "ring")
        ]

    first, again, other = made("first", 5), made("again", 5), made("other", 6)
    assert first == again
    assert first != other
