"""Layer 2: contractions, as reshapes and matrix products."""
