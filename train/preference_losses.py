"""Loss formulas of preference objectives: from implicit rewards to one value per pair."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sr_core.flow import column
from sr_core.tensors import Latent, PerSample

MAPO_SCALE = 1000.0
"""T of MaPO: the number of diffusion steps, which multiplies the margin."""
MAPO_SHARPNESS = 0.5
"""c of MaPO: how fast the score of a sample falls with its error."""


def sigmoid_loss(margin: PerSample, label_smoothing: float) -> PerSample:
    """Return -log sigmoid(margin), with the share `label_smoothing` of labels taken as wrong (cDPO).

    Source: Diffusion-DPO, arXiv 2311.12908, Eq. 14; conservative DPO, note by Mitchell, 2023.
    """
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def ipo_loss(margin: PerSample, beta: float) -> PerSample:
    """Return (margin / beta - 1 / (2 beta))^2, at margin 0 1 / (4 beta^2).

    Source: IPO, arXiv 2310.12036, Eq. 17.
    """
    return (margin / beta - 1 / (2 * beta)).square()


def hinge_loss(margin: PerSample) -> PerSample:
    """Return max(0, 1 - margin).

    Source: SLiC-HF, arXiv 2305.10425, with the DPO margin.
    """
    return (1 - margin).clamp_min(0)


def kto_loss(chosen: PerSample, rejected: PerSample, mean_reward: Tensor) -> PerSample:
    """Return the mean of 1 - sigmoid(chosen - offset) and 1 - sigmoid(offset - rejected), each sample judged alone.

    The offset stands for the policy's divergence from its reference: `mean_reward`, the mean over the whole batch's
    winners and losers, without gradient, at least 0. So a pair's loss depends on the batch it is in.

    Source: Diffusion-KTO, arXiv 2404.04465, with lambda 1.
    """
    offset = mean_reward.detach().clamp_min(0)
    return 1 - (torch.sigmoid(chosen - offset) + torch.sigmoid(offset - rejected)) / 2


def mapo_score(error: PerSample) -> PerSample:
    """Return T q(e) with q(e) = c e / (exp(c e) - 1), which falls from 1 as the error grows.

    Source: MaPO, arXiv 2406.06424, and its released code, T = 1000 and c = 0.5.
    """
    # 0 / 0 has the limit 1, which the smallest float keeps.
    scaled = (MAPO_SHARPNESS * error).clamp_min(torch.finfo(error.dtype).tiny)
    return MAPO_SCALE * scaled / torch.expm1(scaled)


def dspo_residual(policy: Latent, reference: Latent, margin: PerSample, beta: float) -> Latent:
    """Return r_policy - pull (r_policy - r_reference) with pull = beta (1 - sigmoid(margin)); its square is the loss.

    Residuals are the winner's. The loss regresses on the winner, moved along the policy's departure from the reference
    by as much as the pair is still ranked wrongly. One beta serves both places; the released code halves it in the
    sigmoid alone, and like here lets gradients through the pull.

    Source: DSPO, ICLR 2025 (Zhu et al.).
    """
    return policy - column(beta * torch.sigmoid(-margin)) * (policy - reference)
