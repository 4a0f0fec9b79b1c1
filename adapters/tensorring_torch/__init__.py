"""tensorring_torch: layers of PyTorch networks as sequences of smaller plain ones, whole networks, and training on."""

from tensorring_torch.budget import Budget
from tensorring_torch.checkpoint import load, save
from tensorring_torch.compressibility import compressibility
from tensorring_torch.cut_report import Compressibility, CutReport, Truncation
from tensorring_torch.factored import factor_weights
from tensorring_torch.forms.cp import TuckerCPTensor
from tensorring_torch.layer import build_layer, decompose_layer, dense_layer
from tensorring_torch.model import compress
from tensorring_torch.modules import FoldBond, UnfoldBond
from tensorring_torch.norms import fold_norms
from tensorring_torch.report import Compressed, Cost, LayerReport, Report
from tensorring_torch.training.expand import expand
from tensorring_torch.training.factorize import factorize_like
from tensorring_torch.training.fine_tune import fine_tune
from tensorring_torch.training.fold import fold
from tensorring_torch.training.orthogonality import orthogonality_penalty
from tensorring_torch.training.rank_search import search_ranks
from tensorring_torch.training.recipe import Recipe
from tensorring_torch.training.recompress import recompress
from tensorring_torch.training.result import Epoch, FineTuned
from tensorring_torch.training.schedule import Schedule
from tensorring_torch.training.sensitivity import sensitivity_penalty
from tensorring_torch.training.step import Step
from tensorring_torch.tt_linear import TTLinear, tt_linear

__all__ = [
    # one layer
    "build_layer", "decompose_layer", "dense_layer", "factor_weights", "FoldBond", "tt_linear", "TTLinear",
    "TuckerCPTensor", "UnfoldBond",
    # a network
    "Budget", "compress", "Compressed", "Cost", "fold_norms", "LayerReport", "Report",
    # what truncation does to it
    "compressibility", "Compressibility", "CutReport", "Truncation",
    # training on
    "Epoch", "FineTuned", "Recipe", "fine_tune", "sensitivity_penalty",
    # step by step, in training, from scratch
    "factorize_like", "recompress", "Schedule", "search_ranks", "Step",
    # training for low rank
    "expand", "fold", "orthogonality_penalty",
    # files
    "load", "save",
]  # fmt: skip
