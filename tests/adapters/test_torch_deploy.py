"""What the page of ONNX files and eight bits rests on."""

import argparse
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("tqdm")
from benchmarks import deploy

torch.set_num_threads(1)


@pytest.mark.filterwarnings("ignore")  # of torch's own exporter
def test_a_file_its_eight_bits_and_its_memory(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten()
    ).eval()
    x = torch.randn(128, 3, 8, 8)
    small = deploy.compressed(model, x, argparse.Namespace(parameters=0.6, form=["cut"]))
    logits = deploy.predicted(model, x)
    for network in (model, small):
        path = deploy.export(network, x, tmp_path / "network.onnx")
        with torch.inference_mode():
            torch.testing.assert_close(deploy.Deployed(path)(x), network(x), rtol=1e-4, atol=1e-4)
        made, way = deploy.quantised(path, x[:64], x[64:], logits[64:])
        assert way.startswith(("tensor", "channel"))
        assert made.stat().st_size < path.stat().st_size
        got = deploy.predicted(deploy.Deployed(made), x)
        with torch.inference_mode():
            assert (got - network(x)).norm() < 0.1 * logits.norm()
    image, result = 4 * 3 * 8 * 8, 4 * 16 * 8 * 8
    peak = deploy.peak_of_activations(deploy.export(model, x, tmp_path / "dense.onnx"), x[:1])
    assert image + 2 * result <= peak <= image + 4 * result


def test_without_data_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "NEEDED", ())
    monkeypatch.setattr(sys, "argv", ["deploy", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        deploy.main()
    assert stopped.value.code == 0
    assert "skipped: no" in capsys.readouterr().err
