"""The regulariser of conditioning augmentation (method.md, eq. 2)."""

from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats per dimension, averaged over B and S (eq. 2)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
