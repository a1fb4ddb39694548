"""Tiny latent backbones, a tiny dataset of groups, and recipes that train the one on the other."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sr_core.backbones.adapters import add_lora, lora_parameters, lora_set
from sr_core.backbones.lora_files import write_lora
from sr_core.noise import GENERATOR
from sr_core.preference_data.card import CardFacts
from sr_core.preference_data.dataset import candidate_schema
from sr_core.preference_data.folder import complete_dataset
from sr_core.preference_data.shards import Origin, ScoredGroup, Seconds, group_table, write_group
from sr_core.preferences import weigh_groups
from sr_core.rewards.group import hybrid_reward, score_term
from tests.tiny_flux import save_flux_base, save_flux_controlnet
from tests.tiny_models import tiny_sd2, tiny_sd15, tiny_sdxl

SIDE = 16
"""LQ side of the groups in px."""
CANDIDATES = 4
GROUPS = 3


def write_dataset(folder: Path) -> Path:
    """Write groups of random candidates around smooth photos, as curation would."""
    rng = np.random.default_rng(3)
    schema, parts = candidate_schema(("lpips", "niqe")), []
    for number in range(GROUPS):
        lq = rng.integers(40, 200, (SIDE, SIDE, 3)).astype(np.uint8)
        hq = np.kron(lq, np.ones((4, 4, 1), np.uint8))
        images = [
            np.clip(hq + rng.normal(0, 10 + 10 * k, hq.shape), 0, 255).astype(np.uint8) for k in range(CANDIDATES)
        ]
        raw = {name: [float(rng.uniform(0.1, 0.9)) for _ in images] for name in ("lpips", "niqe")}
        group = ScoredGroup(
            group_id=f"group-{number}",
            origin=Origin(
                generator=GENERATOR, model_id="tiny", model_revision=None, adapter="sft", sampler="native",
                schedule="linear", steps=2, guidance=1.0, color_fix="off", tile_cfg="{}", preset="bicubic", photo="a",
            ),
            lq=lq, hq=hq, images=images, candidate_ids=list(range(CANDIDATES)), seeds=list(range(CANDIDATES)),
            sources=[None] * CANDIDATES, dtypes=["float32"] * CANDIDATES, raw=raw,
            reward=hybrid_reward(raw, {name: score_term(name) for name in raw}), metrics=[],
        )  # fmt: skip
        parts.append(folder / "groups" / f"{number}.parquet")
        parts[-1].parent.mkdir(parents=True, exist_ok=True)
        write_group(parts[-1], group_table(group, schema, datetime.now(UTC)), Seconds(1.0, 0.5, 0.5))
    facts = CardFacts(
        drawn="by a test", made="By a test.", metric_set="none", fidelity_weight=0.5, top=1, weights="None.", biases=(),
        recipe={},
    )  # fmt: skip
    complete_dataset(folder, parts, schema, facts, groups_per_shard=8, weigh=weigh_groups)
    return folder


def save_backbone(kind: str, folder: Path) -> dict[str, Any]:
    """Save tiny weights of a kind of backbone and return the recipe's section `backbone`."""
    if kind in ("sd2-epsilon", "sd2-v"):
        tiny_sd2(folder, "epsilon" if kind == "sd2-epsilon" else "v_prediction")
        return {"name": "c-sd2", "base": str(folder / "base"), "controlnet": str(folder / "controlnet")}
    if kind in ("sd15", "sdxl"):
        (tiny_sd15 if kind == "sd15" else tiny_sdxl)(folder)
        return {"name": kind, "base": str(folder / "base"), "controlnet": str(folder / "controlnet")}
    base = save_flux_base(folder / "base")
    if kind == "c-flux":
        branch = save_flux_controlnet(folder / "controlnet" / "model.safetensors", base)
        return {"name": "c-flux", "base": str(base), "controlnet": str(branch.parent)}
    return {"name": "flux-lora", "base": str(base), "adapter": str(_save_sft(base, folder / "lora"))}


def _save_sft(base: Path, folder: Path) -> Path:
    from diffusers import FluxTransformer2DModel

    from sr_core.backbones.flux import LORA_TARGETS

    network = FluxTransformer2DModel.from_pretrained(base, subfolder="transformer")
    add_lora(network, "sft", rank=3, alpha=3.0, targets=LORA_TARGETS, seed=5)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in lora_parameters(network, "sft").items():
        if "lora_B" in name:
            parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return write_lora(folder, lora_set(network, "sft"), component="transformer")


def latent_values(backbone: dict[str, Any], dataset: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the values of a recipe of three steps, with other entries in a section or at the top."""
    full = "controlnet" in backbone
    values: dict[str, Any] = {
        "seed": 11,
        "output": str(folder / "run"),
        "dataset": str(dataset),
        "cache": str(folder / "cache"),
        "backbone": backbone,
        "lora": {"train": "full"} if full else {"rank": 2, "alpha": 2.0},
        "pairs": {"top": 1},
        "objective": {"name": "hpo", "beta": 50.0},
        "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": 3, "warmup_steps": 0, "decay_steps": 0},
        "draw": {"num_steps": 2, "sampler": "native", "num_candidates": 2},
        "log_every": 1,
        "checkpoint_every": 2,
        "dtype": "float32",
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]
