"""Layer 4: what can be computed in the format, without the dense tensor."""

from tensorring.algebra.error import relative_error
from tensorring.algebra.gauge import balance
from tensorring.algebra.inner import inner, norm
from tensorring.algebra.retarget import retarget

__all__ = ["balance", "inner", "norm", "relative_error", "retarget"]
