"""Transformers of torch: their linear layers in chains, in training and eval mode, with masks, exported, in files."""

import copy

import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.replace import put
from tensorring_torch.select import candidates
from tensorring_torch.trace import input_shapes, layers_called
from torch import nn

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]
PADDED = torch.arange(6)[None] >= torch.tensor([6, 4, 3])[:, None]
CAUSAL = nn.Transformer.generate_square_subsequent_mask(6)


def encoder(**options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not options)


def compressed(model, x, **cut):
    """All candidates exchanged, as `compress` does."""
    found = candidates(model, input_shapes(model, x))
    chosen = {c.name: tgt.decompose_layer(c.layer, format="cut", **cut) for c in found if c.reason is None}
    return put(copy.deepcopy(model), chosen), chosen


def dense_again(model):
    """The same numbers in dense layers."""
    chains = {name: tgt.dense_layer(part) for name, part in model.named_modules() if "plan" in vars(part)}
    fresh = copy.deepcopy(model)
    for part in fresh.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 1
    return put(fresh, chains)


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}, {"bias": False}])
@pytest.mark.parametrize("masks", [{}, {"mask": CAUSAL}, {"src_key_padding_mask": PADDED},
                                   {"mask": CAUSAL, "src_key_padding_mask": PADDED}])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_an_encoder_is_the_same_whichever_path_torch_takes(options, masks):
    model, x = encoder(**options), torch.randn(3, 6, 16)
    small, chosen = compressed(model, x, ranks=5)
    assert sorted(chosen) == [f"layers.{k}.linear{n}" for k in (0, 1) for n in (1, 2)]
    with layers_called():
        expected = dense_again(small).eval()(x, **masks)
    seen = ~PADDED if "src_key_padding_mask" in masks else torch.ones_like(PADDED)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            torch.testing.assert_close(small.eval()(x, **masks)[seen], expected[seen], rtol=1e-5, atol=1e-5)
    small.train()(x, **masks).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize("masks", [{}, {"src_key_padding_mask": PADDED}])
def test_the_dense_fused_path_agrees(masks):
    """Where the dense network takes the fused path, and nested tensors, the chains still compute the same."""
    model, x = encoder().eval(), torch.randn(3, 6, 16)
    small, _ = compressed(model, x, tol=1e-6)
    seen = ~PADDED if masks else torch.ones_like(PADDED)
    with torch.no_grad():
        torch.testing.assert_close(small(x, **masks)[seen], model(x, **masks)[seen], rtol=1e-4, atol=1e-5)
    assert model.use_nested_tensor
    assert model.layers[0].activation_relu_or_gelu


def test_other_layers_keep_the_fused_path():
    model = encoder().eval()
    put(model, {"layers.1.linear2": tgt.decompose_layer(model.layers[1].linear2, ranks=3)})
    assert model.layers[0].activation_relu_or_gelu == 1
    assert model.layers[1].activation_relu_or_gelu == 0
    with torch.no_grad():
        model(torch.randn(3, 6, 16), src_key_padding_mask=PADDED)


def test_the_fused_path_reads_factored_attention():
    model, x = encoder().eval(), torch.randn(3, 6, 16)
    for layer in model.layers:
        layer.self_attn = tgt.factor_weights(layer.self_attn, ranks=4)
    with torch.no_grad():
        fused = model(x, src_key_padding_mask=PADDED)
        assert not fused[PADDED].any()  # it was taken
        with layers_called():
            torch.testing.assert_close(model(x, src_key_padding_mask=PADDED)[~PADDED], fused[~PADDED])


def test_encoder_and_decoder_and_a_classifier():
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
    example = {"src": torch.randn(2, 6, 16), "tgt": torch.randn(2, 5, 16)}
    small, chosen = compressed(model, example, ranks=4)
    assert sorted(chosen) == [f"{part}.layers.0.linear{n}" for part in ("decoder", "encoder") for n in (1, 2)]
    for training in (True, False):
        small.train(training)(**example)
    reasons = {c.name: c.reason for c in candidates(model, input_shapes(model, example))}
    assert "MultiheadAttention" in reasons["decoder.layers.0.multihead_attn.out_proj"]


def test_a_network_of_encoders_shrinks_to_half_and_is_saved_and_exported(tmp_path):
    model, x = encoder(), torch.randn(3, 6, 16)
    small, _ = compressed(model, x, ranks=2)
    for k in (0, 1):
        small.layers[k].self_attn = tgt.factor_weights(small.layers[k].self_attn, ranks=4)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())
    tgt.save(tmp_path / "x", small)
    again = tgt.load(tmp_path / "x", encoder())
    for part in (small, again):
        part.eval()
    with torch.no_grad():
        expected = small(x, src_key_padding_mask=PADDED)
        assert torch.equal(again(x, src_key_padding_mask=PADDED), expected)
        program = torch.export.export(again, (x,))
        torch.testing.assert_close(program.module()(x), small(x))
