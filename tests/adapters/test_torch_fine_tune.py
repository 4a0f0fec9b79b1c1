"""Training on: a copy learns, the same seed gives the same network, and every way to end leaves a whole one."""

import copy

import pytest
import tensorring_torch as tgt
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)


def images(count=240):
    """Two classes: bright above, or bright below."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 2
    x = torch.rand(count, 1, 8, 8, generator=generator)
    x[y == 0, :, :4] += 0.12
    x[y == 1, :, 4:] += 0.12
    return x, y


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2))


@pytest.fixture(scope="module")
def dense():
    return tgt.fine_tune(network(), None, images(), epochs=4, lr=0.1, batch_size=20).model.eval()


@pytest.fixture
def small(dense):
    model = copy.deepcopy(dense)
    model[3] = tgt.decompose_layer(model[3], format="tucker", ranks=1)
    return model


def same(a, b):
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_copy_learns_and_all_else_stays(dense, small):
    before, teacher, modes = copy.deepcopy(small), copy.deepcopy(dense), [m.training for m in small.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tuned = tgt.fine_tune(small, dense, images(), epochs=3, lr=0.05, batch_size=20, sensitivity=1e-3, clip=1.0)
    assert torch.equal(torch.rand(3), expected), "the global random state was touched"
    assert same(small, before)
    assert same(dense, teacher)
    assert [m.training for m in small.modules()] == [m.training for m in tuned.model.modules()] == modes
    assert not dense.training
    assert tuned.stop == "epochs"
    assert [epoch.number for epoch in tuned.history] == [0, 1, 2, 3]
    assert tuned.history[0].loss is None
    assert tuned.history[-1].loss < tuned.history[1].loss
    assert tuned.history[-1].validation_loss < tuned.history[0].validation_loss
    assert tuned.history[-1].validation_accuracy > 0.7
    assert "stop='epochs'" in repr(tuned)
    assert tuned.message
    tgt.dense_layer(tuned.model[3])
    with pytest.raises(AttributeError):
        tuned.stop = "other"


def test_the_same_seed_gives_the_same_network(dense, small):
    def augment(x):
        return x + 0.1 * torch.randn_like(x)

    runs = [
        tgt.fine_tune(small, dense, images(), epochs=2, batch_size=20, augment=augment, seed=seed).model
        for seed in (1, 1, 2)
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
    x, y = images()
    runs = [
        tgt.fine_tune(small, None, DataLoader(TensorDataset(x, y), 20, shuffle=True), epochs=1, validation=(x, y)).model
        for _ in range(2)
    ]
    assert same(*runs)


def test_best_is_the_state_of_the_least_validation_loss():
    (x, y), small = images(), network()
    wrong = (x, 1 - y)  # on which the loss only grows, so that the start is best
    tuned = tgt.fine_tune(small, None, (x, y), validation=wrong, epochs=2, lr=0.1, batch_size=20)
    losses = [epoch.validation_loss for epoch in tuned.history]
    assert losses[0] == min(losses)
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in tuned.best.items())
    assert not same(tuned.model, small)
    without = tgt.fine_tune(small, None, (x, y), validation=0, epochs=1, batch_size=20)
    assert all(torch.equal(value, without.model.state_dict()[name]) for name, value in without.best.items())


def test_the_callback_watches_and_ends(small):
    seen = []

    class Watch:
        closed = 0

        def __call__(self, step, loss):
            seen.append((step, loss))
            return step == 7

        def close(self):
            self.closed += 1

    watch = Watch()
    tuned = tgt.fine_tune(small, None, images(), epochs=5, batch_size=36, callback=watch)
    assert [step for step, _ in seen] == list(range(1, 8))
    assert (tuned.stop, watch.closed, len(tuned.history)) == ("callback", 1, 2)
    assert all(torch.equal(value, tuned.model.state_dict()[name]) for name, value in tuned.best.items())


def test_an_interrupt_returns_the_best_so_far(small):
    def interrupt(step, loss):
        if step == 8:
            raise KeyboardInterrupt

    tuned = tgt.fine_tune(small, None, images(), epochs=5, lr=0.05, batch_size=36, callback=interrupt)
    assert (tuned.stop, len(tuned.history)) == ("interrupted", 2)
    assert "best" in tuned.message
    assert all(torch.equal(value, tuned.model.state_dict()[name]) for name, value in tuned.best.items())


@pytest.mark.parametrize("validation", [0.1, 0])
def test_a_loss_that_is_not_finite_ends_the_run(small, validation):
    model = nn.Sequential(*(layer for layer in small if not isinstance(layer, nn.BatchNorm2d)))
    tuned = tgt.fine_tune(model, None, images(), epochs=4, lr=1e8, batch_size=20, validation=validation)
    assert tuned.stop == "diverged"
    assert "lr" in tuned.message
    assert all(value.isfinite().all() for value in tuned.model.state_dict().values())


def test_a_start_that_is_not_finite_is_said_to_be_so(small):
    with torch.no_grad():
        small[0].weight[0] = float("nan")
    tuned = tgt.fine_tune(small, None, images(), epochs=1)
    assert (tuned.stop, tuned.history) == ("diverged", ())
    assert "diverged" in repr(tuned)


def test_batch_norms_keep_their_statistics_when_told(small):
    kept = tgt.fine_tune(small, None, images(), epochs=1, batch_norm="keep").model
    moved = tgt.fine_tune(small, None, images(), epochs=1).model
    assert torch.equal(kept[1].running_mean, small[1].running_mean)
    assert not torch.equal(moved[1].running_mean, small[1].running_mean)
    assert not torch.equal(kept[1].weight, small[1].weight)


def test_frozen_layers_stay(small):
    small[0].requires_grad_(False)
    tuned = tgt.fine_tune(small, None, images(), epochs=1).model
    assert torch.equal(tuned[0].weight, small[0].weight)
    assert not tuned[0].weight.requires_grad


def test_the_penalty_keeps_kernels_tame(small):
    loose, tame = (tgt.fine_tune(small, None, images(), epochs=3, lr=0.1, sensitivity=s).model for s in (0.0, 1.0))
    assert tgt.sensitivity_penalty(tame) < tgt.sensitivity_penalty(loose)


def test_agreement_alone_follows_the_teacher(dense, small):
    """With distill=1 the labels are not even read."""
    x, y = images()
    runs = [tgt.fine_tune(small, dense, (x, labels), epochs=1, distill=1.0).model for labels in (y, 1 - y)]
    assert same(*runs)


def test_the_learning_rate_is_one_cycle():
    recipe = tgt.Recipe(lr=2.0)
    rates = [recipe.rate(k / 1000) for k in range(1001)]
    assert rates[0] == pytest.approx(2 / 25)
    assert max(rates) == pytest.approx(2)
    assert rates[-1] == pytest.approx(0)
    top = rates.index(max(rates))
    assert top == 300
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"epochs": 1.5}, ValueError, "1.5"),
        ({"lr": -1.0}, ValueError, "lr=-1"),
        ({"lr": float("nan")}, ValueError, "nan"),
        ({"distill": 2.0}, ValueError, "distill"),
        ({"batch_norm": "off"}, ValueError, "'off'"),
        ({"speed": 3}, TypeError, "speed"),
        ({"validation": 1.0}, ValueError, r"1\.0.*\[0, 1\)"),
        ({"model": "resnet"}, TypeError, "str.*nn.Module"),
        ({"loader": iter([images()])}, TypeError, "DataLoader"),
        ({"loader": [images(20)]}, ValueError, "cannot be split"),
        ({"loader": (torch.zeros(3, 1), torch.zeros(2))}, ValueError, "3 inputs and 2 labels"),
    ],
)
def test_bad_requests(small, change, error, message):
    arguments = {"model": small, "teacher": None, "loader": images()} | change
    with pytest.raises(error, match=message):
        tgt.fine_tune(**arguments)
