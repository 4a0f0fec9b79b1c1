"""Layer 4: what is wrong with a low-rank tensor, if anything is."""

from tensorring.diagnostics.core_consistency import core_consistency
from tensorring.diagnostics.cut_spectra import CutSpectrum, cut_spectra
from tensorring.diagnostics.degeneracy import Degeneracy, degeneracy
from tensorring.diagnostics.factor_match import FactorMatch, factor_match
from tensorring.diagnostics.sensitivity import sensitivity

__all__ = [
    "CutSpectrum", "Degeneracy", "FactorMatch",
    "core_consistency", "cut_spectra", "degeneracy", "factor_match", "sensitivity",
]  # fmt: skip
