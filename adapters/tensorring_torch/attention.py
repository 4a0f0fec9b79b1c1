"""Attention whose projections are layers of their own, so that others can take their places."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from tensorring_torch.replace import put, tied_modules

_INTO = ("q_proj", "k_proj", "v_proj")


class Attention(nn.Module):
    """softmax(q kᵀ/√d + masks) v of projected queries, keys and values, projected: what nn.MultiheadAttention computes.

    That reads the weights of its projections itself, in one product. Here they are nn.Linear, and are called.

    Parameters
    ----------
    attention
        The nn.MultiheadAttention to stand in for; its numbers are copied.
    """

    # By these torch's transformers see that their fused path, which reads weights, is closed.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    @torch.inference_mode(False)  # parameters made in inference mode could never be trained
    @torch.no_grad()
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        for name, (weight, bias) in zip(_INTO, _projections(attention), strict=True):
            self.add_module(name, _linear(weight, bias))
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in nn.MultiheadAttention: outputs, and the weights where they are asked for."""
        if is_causal and attn_mask is None:
            raise RuntimeError("got is_causal, which is a hint about attn_mask, without attn_mask; give both")
        alone, swapped = query.ndim == 2, query.ndim == 3 and not self.batch_first
        inputs = [x[None] if alone else x.transpose(0, 1) if swapped else x for x in (query, key, value)]
        q, k, v = (self._heads(getattr(self, name)(x)) for name, x in zip(_INTO, inputs, strict=True))
        mask = _added(attn_mask, key_padding_mask, q)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            weights = functional.dropout(torch.softmax(scores if mask is None else scores + mask, -1), rate)
            found = weights @ v
        else:
            found = functional.scaled_dot_product_attention(q, k, v, mask, rate)
        out = self.out_proj(found.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if alone:
            return out[0], None if weights is None else weights[0]
        return out.transpose(0, 1) if swapped else out, weights

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, E) as (N, heads, L, E/heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _added(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
    """What both masks add to the scores (N, heads, L, S), in a shape that is broadcast to it."""
    found = None
    if attn_mask is not None:
        found = _numbers(attn_mask, q)
        found = found.unflatten(0, q.shape[:2]) if found.ndim == 3 else found
    if key_padding_mask is not None:
        padded = key_padding_mask if key_padding_mask.ndim == 2 else key_padding_mask[None]
        padded = _numbers(padded, q)[:, None, None]
        found = padded if found is None else found + padded
    return found


def _numbers(mask: Tensor, like: Tensor) -> Tensor:
    """−∞ where a mask of bool is true."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _projections(attention: Any) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of queries, keys and values."""
    whole = attention.in_proj_weight
    weights = [getattr(attention, f"{name}_weight") for name in _INTO] if whole is None else whole.chunk(3)
    bias = attention.in_proj_bias
    return list(zip(weights, [None] * 3 if bias is None else bias.chunk(3), strict=True))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), _is_trained(weight))
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), _is_trained(bias))  # type: ignore[assignment]
    return layer


def _is_trained(x: Tensor) -> bool:
    """Whether it is, or what it is a part of."""
    return x.requires_grad if x._base is None else x._base.requires_grad


def can_open(module: nn.Module) -> bool:
    """Whether an `Attention` computes the same, and nobody looks on."""
    if type(module) is not nn.MultiheadAttention or module.bias_k is not None or module.add_zero_attn:
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    parts = list(module.modules())
    bare = not any(hooks) and not any(parametrize.is_parametrized(part) for part in parts)
    return bare and not any(p.is_meta or p.is_complex() for p in module.parameters())


def open_attention(model: nn.Module) -> list[str]:
    """Each nn.MultiheadAttention in the model becomes an `Attention`, in place, where it can; the names of those."""
    tied = tied_modules(model)
    found = {
        name: Attention(module)
        for name, module in model.named_modules()
        if name and isinstance(module, nn.MultiheadAttention) and can_open(module)
        if not any(id(part) in tied for part in module.modules())
    }
    put(model, found)
    return list(found)


@torch.no_grad()
def close_attention(model: nn.Module, dense: nn.Module, names: list[str]) -> None:
    """Those of these whose projections are nn.Linear still become copies of the dense network's again, in place."""
    for name in names:
        opened: Any = model.get_submodule(name)
        if not all(type(getattr(opened, part)) is nn.Linear for part in (*_INTO, "out_proj")):
            continue
        closed: Any = copy.deepcopy(dense.get_submodule(name)).train(opened.training)
        layers = [getattr(opened, part) for part in _INTO]
        pairs = [(new, old) for new, old in zip(_projections(closed), layers, strict=True)]
        pairs.append(((closed.out_proj.weight, closed.out_proj.bias), opened.out_proj))
        for (weight, bias), layer in pairs:
            weight.copy_(layer.weight)
            if bias is not None:
                bias.copy_(layer.bias)
        put(model, {name: closed})
