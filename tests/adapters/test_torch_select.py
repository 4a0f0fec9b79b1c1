"""Which layers are candidates: by name, by kind, and by what their network does with them."""

import pytest
import torch
from tensorring_torch.select import candidates
from tensorring_torch.trace import input_shapes
from torch import nn

torch.set_num_threads(1)


class Net(nn.Module):
    """Layers in every kind of place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(2)])
        self.branches = nn.ModuleDict({"up": nn.ConvTranspose1d(8, 8, 2, 2), "up_to": nn.ConvTranspose1d(8, 8, 2, 2)})
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)
        self.words, self.tied = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)
        self.tied.weight = self.words.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.never, self.head = nn.Linear(3, 3), nn.Linear(8, 2)
        self.capped = nn.Embedding(5, 4, max_norm=1.0)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.branches["up"](x)
        x = self.depthwise(self.branches["up_to"](x, output_size=(x.shape[-1] * 2 + 1,)))
        x = x.mT + self.tied(self.words(torch.zeros(1, 1, dtype=torch.long)))
        return self.head(self.normed(self.attention(x, x, x)[0]))


@pytest.fixture
def net():
    return Net()


def reasons(net, **selection):
    return {c.name: c.reason for c in candidates(net, input_shapes(net, torch.randn(2, 4, 6)), **selection)}


FREE = ["stem", "blocks.0.0", "blocks.1.0", "branches.up", "head"]


def test_those_that_can_be_and_why_others_stay(net):
    found = reasons(net)
    assert [name for name, reason in found.items() if reason is None] == FREE
    for name, reason in {
        "branches.up_to": "an input alone",
        "depthwise": "depthwise",
        "words": "tied",
        "tied": "tied",
        "attention.out_proj": "MultiheadAttention",
        "never": "does not call",
        "capped": "max_norm",
        "normed": "weight norm",
    }.items():
        assert reason in found[name]


@pytest.mark.parametrize(
    ("selection", "free"),
    [
        ({"include": "blocks"}, ["blocks.0.0", "blocks.1.0"]),
        ({"include": ("stem", nn.Linear)}, ["stem", "head"]),
        ({"include": nn.Conv1d, "exclude": ["blocks.[0]*"]}, ["stem", "blocks.1.0"]),
        ({"exclude": (nn.ModuleDict, "head")}, ["stem", "blocks.0.0", "blocks.1.0"]),
        ({"exclude": "*"}, []),
        ({"include": []}, []),
    ],
)
def test_by_name_and_type(net, selection, free):
    found = reasons(net, **selection)
    assert [name for name, reason in found.items() if reason is None] == free
    if "exclude" in selection:
        assert "excluded" in found.values()


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        ({"include": "block"}, ValueError, "include='block'.*'stem', 'blocks.0.0'"),
        ({"exclude": [nn.Conv2d]}, ValueError, "exclude=.*Conv2d.*matches no module"),
        ({"include": 3}, TypeError, "3"),
        ({"exclude": [nn.Conv1d(1, 1, 1)]}, TypeError, "Conv1d.*types"),
        ({"include": [int]}, TypeError, "int"),
    ],
)
def test_selections_that_say_nothing(net, selection, error, message):
    with pytest.raises(error, match=message):
        reasons(net, **selection)
