"""Training on: a copy learns, the same seed gives the same network, and every way to end leaves a whole one."""

import copy
import itertools

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from torch import nn
from torch.nn import functional
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


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_wherever_it_is_called(mode, dense, small):
    expected = tgt.fine_tune(small, dense, images(), epochs=1, ema=0.5).model
    with mode():
        tuned = tgt.fine_tune(small, dense, images(), epochs=1, ema=0.5).model
    assert same(tuned, expected)
    tuned(images()[0]).sum().backward()


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


def by_hand(model, x, y, recipe):
    """Full batches in double precision, every rule written out; the weights at the end and their average."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    first, second = ({name: torch.zeros_like(p) for name, p in weights.items()} for _ in range(2))
    mean = {name: p.detach().clone() for name, p in weights.items()}
    for k in range(recipe["epochs"]):
        done = (k + 0.5) / recipe["epochs"]
        up = np.cos(np.pi * (1 - done / 0.3) / 2) ** 2 if done < 0.3 else np.cos(np.pi * (done - 0.3) / 1.4) ** 2
        lr = recipe["lr"] * ((1 + 24 * up) / 25 if done < 0.3 else up)
        m = 0.95 - 0.1 * up
        logits = torch.func.functional_call(model, weights, (x,))
        loss = functional.cross_entropy(logits, y) + 0.01 * weights["0.bias"].square().sum()
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        length = sum(g.square().sum() for g in gradients.values()).sqrt()
        for name, p in weights.items():
            g, decay = gradients[name] * min(1, recipe["clip"] / length), 0.01 if "weight" in name else 0
            with torch.no_grad():
                if recipe["optimizer"] == "sgd":
                    g = g + decay * p
                    first[name] = m * first[name] + g
                    p -= lr * (g + m * first[name])
                else:
                    first[name] = m * first[name] + (1 - m) * g
                    second[name] = 0.999 * second[name] + 0.001 * g**2
                    size = (second[name] / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
                    p -= lr * (decay * p + first[name] / (1 - m ** (k + 1)) / size)
                d = min(0.5, (1 + k) / (10 + k))
                mean[name] = d * mean[name] + (1 - d) * p
    return weights, mean


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_are_those_of_the_formulas(optimizer):
    """Rate, momentum, decay (of weights alone), clipping, penalty and average, against the same by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    recipe = {"optimizer": optimizer, "epochs": 12, "lr": 0.1, "clip": 0.3}
    rest = {"momentum": (0.85, 0.95), "weight_decay": 0.01, "validation": 0}
    expected, mean = by_hand(model, x, y, recipe)

    def penalty(m):
        return 0.01 * m[0].bias.square().sum()

    for ema, wanted in ((0.0, expected), (0.5, mean)):
        tuned = tgt.fine_tune(model, None, (x, y), penalty=penalty, ema=ema, **recipe, **rest)
        for name, value in tuned.model.named_parameters():
            torch.testing.assert_close(value.detach(), wanted[name].detach(), rtol=1e-9, atol=1e-10)


def test_an_unknown_field_is_named_with_those_there_are(small):
    with pytest.raises(TypeError, match=r"got lrr=, which is no field of tgt.Recipe: epochs, optimizer, lr"):
        tgt.fine_tune(small, None, images(), lrr=0.1)


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_the_outputs_of_parts_are_matched(distill):
    """One step, against the gradient of the loss written out; a module that merely holds others is no part."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True))
    model, teacher = (nn.Sequential(copy.deepcopy(first), nn.Linear(5, 3)).double() for _ in range(2))
    nn.init.normal_(teacher[0][0].weight)
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    recipe = {"epochs": 1, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "distill": distill, "temperature": 1.0}
    recipe["clip"] = None
    tuned = tgt.fine_tune(model, teacher, (x, y), match=0.7, validation=0, **recipe)
    parts = []
    for net in (model, teacher):
        hidden = net[0][0](x).relu()  # before and after it are one tensor, for it is changed in place
        parts.append((hidden, hidden, net[1](hidden)))
    loss = (1 - distill) * functional.cross_entropy(parts[0][2], y)
    kl = functional.kl_div(
        parts[0][2].log_softmax(1), parts[1][2].log_softmax(1), log_target=True, reduction="batchmean"
    )
    loss = loss + distill * kl
    for ours, theirs in zip(*parts, strict=True):
        loss = loss + 0.7 * (ours - theirs.detach()).square().sum() / theirs.detach().square().sum()
    rate = tgt.Recipe(**recipe).rate(0.5)
    for p, g, new in zip(
        model.parameters(), torch.autograd.grad(loss, list(model.parameters())), tuned.model.parameters(), strict=True
    ):
        torch.testing.assert_close(new.detach(), p.detach() - rate * g, rtol=1e-9, atol=1e-12)
    assert not any(module._forward_hooks for module in tuned.model.modules())


def test_a_pair_of_momenta_is_cycled_as_torch_does():
    recipe, steps = tgt.Recipe(lr=2.0, momentum=(0.85, 0.95)), 2000
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.0, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=steps)
    for k in range(steps - 1):
        group = optimizer.param_groups[0]
        assert recipe.rate((k + 0.5) / steps) == pytest.approx(group["lr"], abs=0.01)
        assert recipe.inertia((k + 0.5) / steps) == pytest.approx(group["momentum"], abs=0.001)
        optimizer.step()
        schedule.step()
    assert tgt.Recipe(momentum=0.7).inertia(0.4) == 0.7


def test_numbers_of_numpy_are_taken():
    recipe = tgt.Recipe(lr=np.float32(0.5), ema=np.float64(0.9), momentum=(np.float64(0.5), 0.75), weight_decay=0)
    assert (recipe.lr, recipe.ema, recipe.momentum) == (0.5, 0.9, (0.5, 0.75))
    assert {type(number) for number in (recipe.lr, recipe.ema, *recipe.momentum)} == {float}


def test_averaged_weights_are_validated_and_returned(dense, small):
    """The average does not change how the running network learns, whose batch norms it takes over."""
    x, y = images()
    data = {"validation": (x, y), "epochs": 3, "lr": 0.1, "batch_size": 20}
    plain, mean = (tgt.fine_tune(small, dense, (x, y), ema=ema, **data) for ema in (0.0, 0.9))
    assert torch.equal(plain.model[1].running_mean, mean.model[1].running_mean)
    assert [epoch.loss for epoch in plain.history] == [epoch.loss for epoch in mean.history]
    assert not torch.equal(plain.model[0].weight, mean.model[0].weight)
    tuned, last = mean.model.eval(), mean.history[-1]
    assert float((tuned(x).argmax(1) == y).float().mean()) == pytest.approx(last.validation_accuracy)
    tuned.load_state_dict(mean.best)
    loss = tgt.Recipe().loss(tuned(x), y, dense(x))
    assert float(loss.detach()) == pytest.approx(mean.best_epoch.validation_loss, rel=1e-5)
    assert all(
        new.data_ptr() != old.data_ptr() for new, old in zip(tuned.parameters(), small.parameters(), strict=True)
    )


def test_frozen_layers_have_no_average(small):
    small[0].requires_grad_(False)
    tuned = tgt.fine_tune(small, None, images(), epochs=1, ema=0.5).model
    assert torch.equal(tuned[0].weight, small[0].weight)


def test_labels_may_be_left_out_where_only_the_teacher_counts(dense, small):
    x, y = images()
    options = {"epochs": 2, "distill": 1.0, "batch_size": 20, "lr": 0.1}
    with_labels = tgt.fine_tune(small, dense, (x, y), **options)
    without = tgt.fine_tune(small, dense, x, **options)
    assert same(with_labels.model, without.model)
    assert [e[:3] for e in with_labels.history] == [e[:3] for e in without.history]
    tuned = tgt.fine_tune(small, dense, x[:200], validation=x[200:], **options)
    agree = (tuned.model.eval()(x[200:]).argmax(1) == dense(x[200:]).argmax(1)).float().mean()
    assert tuned.history[-1].validation_accuracy == pytest.approx(float(agree))
    sets = TensorDataset(x), x, TensorDataset(x, y)
    for loaders in (
        [DataLoader(data, 20) for data in sets],
        [x.split(20), list(zip(x.split(20), y.split(20), strict=True))],
    ):
        runs = [tgt.fine_tune(small, dense, loader, validation=0, **options).model for loader in loaders]
        assert all(same(runs[0], other) for other in runs[1:])


class Recorder(nn.Module):
    """Passes on what it is given, and keeps it in a list that copies of the module share."""

    def __init__(self, seen):
        super().__init__()
        self.seen = [seen]

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.seen[0].append(x.clone())
        return x


def test_the_teacher_sees_the_same_augmented_images():
    """Also where a network writes into what it is given."""
    mine, theirs, drawn = [], [], []

    def mixed(x):
        share = torch.rand(len(x), 1, 1, 1)
        drawn.append(share * x + (1 - share) * x.flip(0) - 0.5)
        return drawn[-1].clone()

    layers = nn.Flatten(), nn.Linear(64, 2)
    student = nn.Sequential(Recorder(mine), nn.ReLU(inplace=True), *layers)
    teacher = nn.Sequential(Recorder(theirs), nn.ReLU(inplace=True), *copy.deepcopy(layers))
    tgt.fine_tune(student, teacher, images()[0], validation=0, augment=mixed, distill=1.0, epochs=2, batch_size=60)
    assert len(mine) == len(theirs) == len(drawn) == 8
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(mine, theirs, drawn, strict=True))


def test_labels_of_every_pixel():
    torch.manual_seed(0)
    model, x = nn.Conv2d(1, 3, 3, padding=1), torch.rand(30, 1, 4, 5)
    y = (3 * x[:, 0]).long()
    tuned = tgt.fine_tune(model, None, (x, y), validation=(x, y), epochs=1, batch_size=7)
    logits = tuned.model(x)
    assert tuned.history[-1].validation_loss == pytest.approx(float(functional.cross_entropy(logits, y).detach()), 1e-5)
    assert tuned.history[-1].validation_accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()))


def test_a_penalty_of_any_kind(small):
    loose, tame = (
        tgt.fine_tune(small, None, images(), epochs=2, lr=0.1, penalty=penalty).model
        for penalty in (None, lambda m: 1.0 * m[0].weight.abs().sum())
    )
    assert tame[0].weight.abs().sum() < 0.9 * loose[0].weight.abs().sum()
    for penalty, got in (
        (lambda m: 1.0, "a float"),
        (lambda m: m[0].bias, r"a Tensor of shape \(8,\)|a Parameter of shape \(8,\)"),
    ):
        with pytest.raises(TypeError, match=f"got ({got}) from penalty.*sum it"):
            tgt.fine_tune(small, None, images(), penalty=penalty)


def test_the_result_is_a_table():
    (x, y), small = images(), network()
    tuned = tgt.fine_tune(small, None, (x, y), validation=(x, 1 - y), epochs=2, lr=0.1, batch_size=20)
    head, *rows, note = str(tuned).splitlines()
    assert head.split() == ["epoch", "loss", "validation", "loss", "accuracy"]
    assert [int(row.split()[0]) for row in rows] == [0, 1, 2]
    assert [row.endswith("best") for row in rows] == [True, False, False]
    assert f"{tuned.history[1].validation_loss:.4g}" in rows[1]
    assert note.endswith(tuned.message)
    assert tuned.best_epoch is tuned.history[0]
    without = tgt.fine_tune(small, None, (x, y), validation=0, epochs=1)
    assert without.best_epoch is without.history[-1]
    assert "nan" not in str(without)
    with torch.no_grad():
        small[0].weight[0] = float("nan")
    nothing = tgt.fine_tune(small, None, (x, y), epochs=1)
    assert nothing.best_epoch is None
    assert "no longer finite" in str(nothing)


def noisy(x):
    return x + 0.1 * torch.randn_like(x)


def broken_off(step, how):
    """A callback that ends the run after a step, as a user or a crash would."""

    def callback(k, loss):
        if k == step and how != "callback":
            raise how
        return k == step

    return callback


@pytest.mark.parametrize("how", ["callback", KeyboardInterrupt, RuntimeError("crash")], ids=["callback", "^C", "crash"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_goes_on_exactly_where_it_was(tmp_path, dense, small, optimizer, how):
    """Whatever broke it off and after whichever steps: weights, best state and history are those of one run."""
    call = {"augment": noisy, "seed": 3, "optimizer": optimizer, "epochs": 4, "lr": 0.02, "batch_size": 45, "ema": 0.6}
    call |= {"momentum": (0.8, 0.9), "distill": 0.7, "sensitivity": 1e-3}
    whole = tgt.fine_tune(small, dense, images(), **call)
    for number, steps in enumerate([(1,), (5,), (6,), (11,), (7, 8, 16, 20), (15, 20)]):
        path = tmp_path / f"{number}.pt"
        for step in steps:
            try:
                part = tgt.fine_tune(small, dense, images(), checkpoint=path, callback=broken_off(step, how), **call)
                assert part.stop in ("callback", "interrupted")
            except RuntimeError:
                assert isinstance(how, RuntimeError)
        torch.rand(7)  # whatever else was drawn in between
        again = tgt.fine_tune(small, dense, images(), checkpoint=path, **call)
        assert again.stop == "epochs"
        assert same(again.model, whole.model)
        assert all(torch.equal(again.best[name], value) for name, value in whole.best.items())
        assert again.history == whole.history


def test_a_run_goes_on_with_a_loader(tmp_path, small):
    """The order of one that shuffles is drawn from torch's global state, and goes on with it."""
    x, y = images()
    call = {"loader": DataLoader(TensorDataset(x, y), 40, shuffle=True), "validation": (x, y), "epochs": 3}
    whole = tgt.fine_tune(small, None, **call)
    for step in (7, 13):
        tgt.fine_tune(small, None, checkpoint=tmp_path / "run.pt", callback=broken_off(step, "callback"), **call)
    assert same(tgt.fine_tune(small, None, checkpoint=tmp_path / "run.pt", **call).model, whole.model)


def test_a_complete_run_is_not_run_again(tmp_path, small):
    path, steps = str(tmp_path / "run.pt"), []
    call = {"epochs": 2, "checkpoint": path, "callback": lambda step, loss: steps.append(step)}
    first, again = (tgt.fine_tune(small, None, images(), **call) for _ in range(2))
    assert same(first.model, again.model)
    assert (first.history, first.stop) == (again.history, again.stop)
    assert steps == list(range(1, len(steps) + 1))
    state = torch.load(path, weights_only=True)["state"]
    assert all(torch.equal(state["last"][name], value) for name, value in first.model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.02}, r"lr=0\.01.* 0\.02"),
        ({"epochs": 3}, "epochs=2.* 3"),
        ({"seed": 1}, "seed=0.* 1"),
        ({"validation": 0.11}, r"validation=0\.1, .*0\.11"),
        ({"loader": images(480)}, "steps=.*"),
        ({"teacher": None}, "teacher='.*None"),
        ({"model": network()}, "model='.*a run goes on as it began.*new file"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, dense, small, change, message):
    call = {"model": small, "teacher": dense, "loader": images(), "epochs": 2, "checkpoint": tmp_path / "run.pt"}
    tgt.fine_tune(**call, callback=broken_off(1, "callback"))
    before = call["checkpoint"].read_bytes()
    with pytest.raises(ValueError, match=r"run\.pt holds a run with " + message):
        tgt.fine_tune(**call | change)
    assert call["checkpoint"].read_bytes() == before


def test_files_that_are_no_checkpoints(tmp_path, small):
    path, steps = tmp_path / "run.pt", itertools.count()
    call = {"epochs": 1, "checkpoint": path, "callback": lambda step, loss: next(steps) and None}
    tgt.fine_tune(small, None, images(), **call)
    whole, other = path.read_bytes(), tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(2)}, other)
    tgt.save(tmp_path / "small", small)
    for content in (b"", b"text", whole[:-100], whole[: len(whole) // 2], other, tmp_path / "small"):
        content = content if isinstance(content, bytes) else content.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.pt: not a file of a run.*fine_tune writes one"):
            tgt.fine_tune(small, None, images(), **call)
        assert path.read_bytes() == content
    began = next(steps)
    with pytest.raises(FileNotFoundError, match="make it first"):
        tgt.fine_tune(small, None, images(), **call | {"checkpoint": tmp_path / "nowhere" / "run.pt"})
    with pytest.raises(IsADirectoryError):
        tgt.fine_tune(small, None, images(), **call | {"checkpoint": tmp_path})
    assert next(steps) == began + 1, "the file is tried before the first step"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"epochs": 1.5}, ValueError, "1.5"),
        ({"lr": -1.0}, ValueError, "lr=-1"),
        ({"lr": float("nan")}, ValueError, "nan"),
        ({"lr": "fast"}, ValueError, "lr='fast'; it is a number above 0"),
        ({"optimizer": "lion"}, ValueError, "optimizer='lion'; it is 'sgd' or 'adam'"),
        ({"momentum": (0.9, 0.8)}, ValueError, "momentum=.0.9, 0.8.*lowest"),
        ({"momentum": 1.0}, ValueError, r"momentum=1\.0"),
        ({"weight_decay": -1}, ValueError, "weight_decay=-1; it is a number of at least 0"),
        ({"clip": 0.0}, ValueError, r"clip=0\.0.*or None"),
        ({"ema": 1.0}, ValueError, r"ema=1\.0; .*\[0, 1\)"),
        ({"distill": 2.0}, ValueError, "distill"),
        ({"batch_norm": "off"}, ValueError, "'off'"),
        ({"loader": images()[0]}, ValueError, "without labels.*distill=1.*teacher"),
        ({"loader": images()[0], "distill": 1.0}, ValueError, "without labels"),
        ({"loader": images()[0], "teacher": network()}, ValueError, "without labels"),
        ({"loader": [(*images(20), 0)], "validation": 0}, TypeError, "batch of .*'int'.*pair"),
        ({"loader": [{"x": 1}], "validation": 0}, TypeError, "batch of dict"),
        ({"loader": [], "validation": 0}, ValueError, "without batches"),
        ({"loader": images(4), "validation": 0.9}, ValueError, "none to train on"),
        ({"speed": 3}, TypeError, "speed"),
        ({"validation": 1.0}, ValueError, r"1\.0.*\[0, 1\)"),
        ({"model": "resnet"}, TypeError, "str.*nn.Module"),
        ({"model": network().requires_grad_(False)}, ValueError, "no parameter learns.*requires_grad_"),
        ({"loader": iter([images()])}, TypeError, "DataLoader"),
        ({"loader": [images(20)]}, ValueError, "cannot be split"),
        ({"loader": (torch.zeros(3, 1), torch.zeros(2))}, ValueError, "3 inputs and 2 labels"),
    ],
)
def test_bad_requests(small, change, error, message):
    arguments = {"model": small, "teacher": None, "loader": images()} | change
    with pytest.raises(error, match=message):
        tgt.fine_tune(**arguments)
