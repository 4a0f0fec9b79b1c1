"""Trained networks on scikit-learn's digits: what compression without labels and training costs in accuracy."""

import pytest
import tensorring_torch as tgt
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
TRAINING = 1200


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(images).float().div(16).reshape(-1, 8, 8)[order], torch.from_numpy(labels)[order]


def trained(model, x, y, *, epochs, rate):
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (TRAINING // 50))
    for _ in range(epochs):
        for part in torch.randperm(TRAINING).split(50):
            loss = nn.functional.cross_entropy(model.train()(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def right(model, x, y):
    """The share of the images that were not trained on."""
    with torch.no_grad():
        return float((model(x[TRAINING:]).argmax(1) == y[TRAINING:]).double().mean())


class Transformer(nn.Module):
    """The rows of an image are its words."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 128, dropout=0.1, batch_first=True)
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_a_transformer_at_half_its_parameters(digits):
    torch.manual_seed(0)
    x, y = digits
    model = trained(Transformer(), x, y, epochs=20, rate=5e-3)
    result = tgt.compress(model, x[:4], budget=tgt.Budget(parameters=0.5), calibration=x[:TRAINING])
    assert result.report.after.parameters <= 0.5 * result.report.before.parameters
    assert right(model, x, y) > 0.95
    assert right(model, x, y) - right(result.model, x, y) <= 0.02  # one point and one standard error


def test_volumes_at_a_quarter(digits, monkeypatch):
    """Each digit, ever brighter from slice to slice."""
    monkeypatch.setattr("tensorring_torch.calibration.curves._SHARES", (0.4, 0.25, 0.16, 0.1))
    torch.manual_seed(0)
    x, y = digits
    x = (x[:, None, None] * torch.linspace(0.3, 1, 8)[:, None, None]).contiguous()
    model = nn.Sequential(
        nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(16, 32, 3, padding=1, bias=False), nn.BatchNorm3d(32), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(32, 32, 3, padding=1, bias=False), nn.BatchNorm3d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 8, 10),
    )  # fmt: skip
    model = trained(model, x, y, epochs=4, rate=1e-2)
    result = tgt.compress(model, x[:4], budget=tgt.Budget(parameters=0.25), calibration=x[:200])
    assert result.report.after.parameters <= 0.25 * result.report.before.parameters
    assert right(model, x, y) > 0.95
    assert right(model, x, y) - right(result.model, x, y) <= 0.015  # one point and half a standard error


def test_a_recurrent_network(digits):
    """Weights alone are looked at: a tolerance of 0.15 stores less and loses two points at most."""
    torch.manual_seed(0)
    x, y = digits
    model = trained(Recurrent(), x, y, epochs=25, rate=1e-2)
    result = tgt.compress(model, x[:4], tol=0.15, minimize="parameters")
    assert result.report.after.parameters < 0.95 * result.report.before.parameters
    assert right(model, x, y) > 0.9
    assert right(model, x, y) - right(result.model, x, y) <= 0.02
