"""The gradient noise scale.

Minibatch gradients g_1 … g_m of B sequences each have mean G and covariance
Σ/B. With ḡ their mean and S = Σ_i ‖g_i - ḡ‖² / (m - 1), E[B S] = tr Σ and E[‖ḡ‖² - S/m] = ‖G‖²:
both estimates are unbiased; their ratio B_simple = tr Σ / ‖G‖² is only consistent. Below this batch
size, more sequences per step save steps in proportion.
McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", 2018,
https://arxiv.org/abs/1812.06162, section 2.2 and appendix A.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseScale:
    """Estimates of tr Σ, the variance of one sequence's gradient, and of ‖G‖²."""

    trace: float
    squared_norm: float

    @property
    def scale(self) -> float:
        """B_simple, in sequences; ∞ where noise hides the mean gradient."""
        if self.squared_norm > 0:
            return self.trace / self.squared_norm
        return math.nan if math.isnan(self.trace + self.squared_norm) else math.inf


def noise_scale(gradients: Sequence[Sequence[Tensor]], batch_size: int) -> NoiseScale:
    """The gradient noise scale from the gradients of ≥ 2 minibatches of one size.

    Args:
        gradients: for each minibatch the gradient of its mean loss, one tensor per weight tensor.
        batch_size: sequences per minibatch.
    """
    count = len(gradients)
    if count < 2:
        raise ValueError(f"noise_scale needs at least 2 gradients, got {count}.")
    rows = torch.stack([torch.cat([g.detach().flatten() for g in one]) for one in gradients])
    rows = rows.cpu().double()
    mean = rows.mean(0)
    spread = float((rows - mean).square().sum()) / (count - 1)
    return NoiseScale(batch_size * spread, float(mean.square().sum()) - spread / count)
