"""Layer 4: what is wrong with a low-rank tensor, if anything is."""

from tensorring.diagnostics.core_consistency import core_consistency
from tensorring.diagnostics.degeneracy import Degeneracy, degeneracy
from tensorring.diagnostics.factor_match import FactorMatch, factor_match
from tensorring.diagnostics.sensitivity import sensitivity

__all__ = ["Degeneracy", "FactorMatch", "core_consistency", "degeneracy", "factor_match", "sensitivity"]
