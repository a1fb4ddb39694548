"""Sample grids of a latent backbone at fixed seeds: the same photographs and seeds for reference and policy."""

from pathlib import Path

import torch

from sr_core.backbones.latent import LatentBackbone
from sr_core.preference_data.dataset import PreferenceDataset
from train.latent_policy import LatentPolicy
from train.policy import POLICY, REFERENCE
from train.samples import SEEDS, sampled_photos, write_grid


def latent_grid(
    dataset: PreferenceDataset, backbone: LatentBackbone, policy: LatentPolicy, path: Path, trained: str = POLICY
) -> Path:
    """Write a grid as `path`, a PNG, and return it; one that was there is replaced.

    One row per photograph: the enlarged LQ, then for each seed the reference and the set `trained`.
    """
    rows = []
    for lq in sampled_photos(dataset):
        condition = backbone.encode(lq)
        cells = [backbone.prior_image(condition).cpu()]
        for seed in SEEDS:
            for name in (REFERENCE, trained):
                # Trained weights are float32 on a base of any precision; the VAE stays float32.
                with (
                    torch.no_grad(),
                    policy.using(name),
                    torch.autocast(backbone.device.type, backbone.dtype, enabled=backbone.dtype != torch.float32),
                ):
                    # Bound inside: it must see the branch that the block put in place.
                    drawing = backbone.bound(backbone.drawing)
                    latent = drawing.draw(condition, [seed], lambda: None)
                cells.append(backbone.decode(latent, condition).clamp(0, 1).cpu())
        rows.append(torch.cat(cells, -1))
    return write_grid(rows, path)
