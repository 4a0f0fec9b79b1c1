"""Compression in steps: budgets are kept, training in between counts, nothing is lost."""

import copy

import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.layer import plan_of
from torch import nn

import tensorring as tg

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("few_options")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 14, 3, padding=1),
        nn.ReLU(), nn.Conv2d(14, 12, 3), nn.Flatten(), nn.Linear(12 * 9, 20, bias=False),
    ).eval()  # fmt: skip


X = torch.randn(48, 3, 5, 5, generator=torch.Generator().manual_seed(0))
QUARTER = tgt.Budget(parameters=0.3)


def same(a, b):
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def size(model):
    return sum(p.numel() for p in model.parameters())


def shaken(model):
    """Some training."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("data", [None, X])
def test_all_layers_go_further_in_each_step(data):
    model = network()
    before = copy.deepcopy(model)
    schedule = tgt.Schedule(model, X[:1], budget=QUARTER, steps=3, calibration=data)
    sizes = []
    for number, step in enumerate(schedule, start=1):
        assert (step.number, step.total, len(schedule)) == (number, 3, 3)
        assert size(step.model) <= 0.3 ** (number / 3) * size(model) * (1 + 1e-9)
        sizes.append(size(step.model))
        tuned = shaken(step.model)
        step.model = tuned
        assert schedule.model is tuned
    assert sizes == sorted(sizes, reverse=True)
    assert same(model, before)
    report = schedule.report
    assert report.after.parameters == size(schedule.model) <= 0.3 * report.before.parameters
    for row in report.layers:
        layer = schedule.model.get_submodule(row.name)
        assert (row.form == "dense") == (plan_of(layer) is None)
        assert row.after.parameters == size(layer)
        dense = layer if plan_of(layer) is None else tgt.dense_layer(layer)
        old = model.get_submodule(row.name).weight
        assert row.error == pytest.approx(float((dense.weight - old).detach().norm() / old.detach().norm()), rel=1e-5)


def test_each_step_begins_at_what_was_trained():
    """The second step is compress of the trained products, and nothing else."""
    schedule = tgt.Schedule(network(), X[:1], budget=QUARTER, steps=2)
    first, second = iter(schedule), None
    step = next(first)
    tuned = shaken(step.model)
    step.model = tuned
    dense = copy.deepcopy(tuned)
    for name, module in tuned.named_children():
        if plan_of(module) is not None:
            dense[int(name)] = tgt.dense_layer(module)
    second = next(first)
    assert same(second.model, tgt.compress(dense, X[:1], budget=QUARTER).model)


@pytest.mark.parametrize("at_once", [1, 2])
def test_layers_go_one_after_the_other_and_the_others_stay(at_once):
    model = network()
    budget = tgt.Budget(parameters=0.3, macs=0.7)
    schedule = tgt.Schedule(model, X[:1], budget=budget, layers_at_once=at_once)
    assert len(schedule) == -(-len(schedule.order) // at_once)
    done, previous = set(), model
    for step in schedule:
        assert step.names
        assert len(step.names) <= at_once
        assert not done & set(step.names)
        done |= set(step.names)
        assert done == {name for name, module in step.model.named_children() if plan_of(module) is not None}
        for name, module in step.model.named_children():
            if name not in done:
                assert same(module, previous.get_submodule(name))
        previous = step.model = shaken(step.model)
    assert done == set(schedule.order)
    report = schedule.report
    assert report.after.parameters <= 0.3 * report.before.parameters
    assert report.after.multiply_adds <= 0.7 * report.before.multiply_adds


def test_orders():
    def order(**options):
        return tgt.Schedule(network(), X[:1], budget=QUARTER, layers_at_once=1, **options).order

    forward = order(order="forward")
    assert forward == tuple(sorted(forward, key=int))
    assert order(order="backward") == forward[::-1]
    mixed = [*forward[1:], forward[0]]
    assert order(order=mixed) == tuple(mixed)
    planned = tgt.compress(network(), X[:1], budget=QUARTER).report
    errors = {row.name: row.error for row in planned.layers}
    assert order() == tuple(sorted(forward, key=errors.get))


def test_influence_is_the_change_of_the_outputs_by_that_layer_alone():
    model = network()
    schedule = tgt.Schedule(model, X[:1], ranks={"3": 9, "5": 2, "7": 3}, layers_at_once=1, calibration=[X])
    changes = {}
    for name, rank in {"3": 9, "5": 2, "7": 3}.items():
        other = copy.deepcopy(model)
        other[int(name)] = tgt.decompose_layer(model[int(name)], format="cp", ranks=rank)
        changes[name] = float((other(X) - model(X)).detach().square().sum())
    assert schedule.order == tuple(sorted(changes, key=changes.get))


def test_ranks_as_given():
    ranks = {"5": 4, "0": 2}
    schedule = tgt.Schedule(network(), X[:1], ranks=ranks, layers_at_once=1, order="forward")
    assert [step.names for step in schedule] == [("0",), ("5",)]
    assert {row.name: row.ranks for row in schedule.report.layers if row.form == "cp"} == {"0": (2,), "5": (4,)}
    tucker = tgt.Schedule(network(), X[:1], ranks={"3": (5, 4)}, formats="tucker", layers_at_once=3)
    assert [step.report.layers[0].ranks[:2] for step in tucker] == [(5, 4)]


def test_what_is_not_assigned_goes_on_as_it_was_compressed():
    schedule = tgt.Schedule(network(), X[:1], budget=QUARTER, steps=2)
    assert same(schedule.model, network())
    for step in schedule:
        assert schedule.model is step.model
    assert size(schedule.model) <= 0.3 * size(network())
    assert list(schedule) == []


def test_nothing_is_lost_where_a_loop_ends_early():
    schedule = tgt.Schedule(network(), X[:1], ranks={"0": 2, "3": 4, "5": 4}, layers_at_once=1, order="forward")
    for step in schedule:
        tuned = step.model = shaken(step.model)
        break
    assert schedule.model is tuned
    step = next(iter(schedule))
    assert (step.number, step.names) == (2, ("3",))
    assert same(step.model[0], tuned[0])
    assert [step.number for step in schedule] == [3]


@pytest.mark.parametrize("options", [{"steps": 2}, {"layers_at_once": 2}])
def test_a_step_that_was_interrupted_is_made_again(options, monkeypatch):
    from tensorring_torch.training import schedule as module

    schedule, real = tgt.Schedule(network(), X[:1], budget=QUARTER, **options), module.compress

    def interrupted(*args, **kwargs):
        def stop(done, total, name):
            raise KeyboardInterrupt

        return real(*args, **kwargs, callback=stop)

    monkeypatch.setattr(module, "compress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(iter(schedule))
    assert same(schedule.model, network())
    monkeypatch.setattr(module, "compress", real)
    assert [step.number for step in schedule][:1] == [1]


def test_a_budget_out_of_reach_is_told_at_once():
    with pytest.raises(tg.BudgetError):
        tgt.Schedule(network(), X[:1], budget=tgt.Budget(parameters=0.001), steps=2)


def test_nothing_to_do_is_no_step():
    schedule = tgt.Schedule(network(), X[:1], budget=tgt.Budget(parameters=1.0), layers_at_once=1)
    assert (len(schedule), list(schedule)) == (0, [])


def test_only_the_network_of_the_step_is_taken():
    step = next(iter(tgt.Schedule(network(), X[:1], ranks={"5": 3}, layers_at_once=1)))
    assert repr(step) == "Step(1 of 1: 5)"
    tuned = tgt.fine_tune(step.model, None, (X, torch.arange(48) % 2), epochs=1)
    with pytest.raises(
        TypeError, match=r"got a FineTuned for the model of a step; it is an nn.Module; assign its \.model"
    ):
        step.model = tuned
    with pytest.raises(TypeError, match=r"got a int for the model of a step; it is an nn.Module$"):
        step.model = 3
    with pytest.raises(ValueError, match="got a model without the factored layer '5'; assign the step's own"):
        step.model = network()
    step.model = tuned.model


BY_LAYERS = {"budget": QUARTER, "layers_at_once": 1}
RANKS = {"ranks": {"0": 3}, "layers_at_once": 1}


def test_errors_say_what_was_got_and_the_way_out():
    for options, error, words in [
        ({"steps": 2}, ValueError, "got neither budget nor ranks; give one"),
        ({"budget": QUARTER, "ranks": {"0": 1}, "steps": 1}, ValueError, "got budget and ranks; give one"),
        ({"budget": 0.3, "steps": 2}, TypeError, "got budget=0.3; it is a Budget"),
        (RANKS | {"ranks": 3}, TypeError, "got ranks=3; they are {name: rank}"),
        (RANKS | {"ranks": {}}, TypeError, "got ranks={}; they are"),
        (RANKS | {"ranks": {"1": 3}}, ValueError, "got ranks of '1': there is none; the layers are '0', '3'"),
        (RANKS | {"include": "0"}, ValueError, "got include or exclude with ranks"),
        (RANKS | {"formats": ["cp"]}, TypeError, "give the one format"),
        (RANKS | {"formats": "cpp"}, ValueError, "got format='cpp'; known formats"),
        (RANKS | {"order": ["0", "9"]}, ValueError, "got an order with '9'; it lists each of '0'"),
        ({"ranks": {"0": 3}, "steps": 2}, ValueError, "got steps with ranks, which are final; give layers_at_once"),
        ({"budget": QUARTER}, ValueError, "got neither steps nor layers_at_once; give one"),
        (BY_LAYERS | {"steps": 1}, ValueError, "got steps and layers_at_once; give one"),
        ({"budget": QUARTER, "steps": 0}, ValueError, "got steps=0; it is an int, 1 or more"),
        (BY_LAYERS | {"layers_at_once": True}, ValueError, "got layers_at_once=True; it is an int"),
        ({"budget": QUARTER, "steps": 2, "order": "forward"}, ValueError, "got steps with an order, which layers_at"),
        (BY_LAYERS | {"order": "best"}, ValueError, "got order='best'; it is one of 'influence'"),
        (BY_LAYERS | {"order": []}, ValueError, "got an order without '"),
        (BY_LAYERS | {"budget": tgt.Budget(latency=0.5)}, ValueError, "latency is of the whole network: give steps"),
    ]:
        with pytest.raises(error, match=words):
            tgt.Schedule(network(), X[:1], **options)
