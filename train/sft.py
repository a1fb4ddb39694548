"""Supervised training of the compact backbone's flow head (`python -m train sft`)."""

import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, mse_loss, pad

from sr_core.backbones.compact import CompactBackbone, head_metadata, shared_prior
from sr_core.backbones.flow_head import FlowHead, contrast_features, unshuffle_planes
from sr_core.degradations import degrade
from sr_core.files import replace_text
from sr_core.images import from_uint8, read_image
from sr_core.precision import resolve_dtype
from sr_core.restorer import RestoreRequest
from sr_core.rewards.lpips import lpips
from sr_core.rewards.offline import load_lpips_layers
from sr_core.samplers import SAMPLERS, Step
from sr_core.schedules import SCHEDULES
from sr_core.spectra import log_spectral_distance
from sr_core.tensors import Image
from train.checkpoints import check_start, replace_tensors
from train.config import SftRecipe, ValidationConfig, recipe_values
from train.data import Batch, CachedCrops, cached_crops, find_photos, head_batch, seeded_generator
from train.engine import Look, RunSettings, fit
from train.processes import Processes
from train.report import write_report
from train.samples import GROUPS, draw_seed, sample_grid, sample_path
from train.steps import BatchPart, PerceptualTerm, StepOutput, sft_step

FIT_WINDOWS = 2048
"""Windows from which the gain and the channel units are fitted."""


@torch.no_grad()
def fit_scales(head: FlowHead, crops: CachedCrops, window_px: int, chroma_unit: float, seed: int) -> None:
    """Fit, in place, how large the residual is: by least squares on log energies, then to unit energy overall.

    The brightness plane gets unit standard deviation in latent units, the colour planes 1 / `chroma_unit`.
    """
    generator = seeded_generator(seed, "scales")
    features, energies, planes, trunks = [], [], [], []
    for _ in range(max(1, FIT_WINDOWS // 64)):
        hq, lq, prior, trunk = crops.windows(64, window_px, generator)
        residual = unshuffle_planes(hq) - unshuffle_planes(prior)
        energy = residual.square().mean(1, keepdim=True)
        smooth = avg_pool2d(pad(energy, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        features.append(contrast_features(prior, lq)[..., ::4, ::4].permute(1, 0, 2, 3).flatten(1))
        energies.append(smooth[..., ::4, ::4].flatten())
        planes.append(
            residual.reshape(len(residual), 3, -1, *residual.shape[2:])
            .square()
            .mean(2)[..., ::4, ::4]
            .permute(1, 0, 2, 3)
            .flatten(1)
        )
        trunks.append(trunk.square().mean())
    x = torch.cat(features, 1)
    design = torch.cat([x, torch.ones(1, x.shape[1])], 0).double()
    target = torch.log(torch.cat(energies) + 1e-7).double()
    solution = torch.linalg.lstsq(design.T, target[:, None]).solution[:, 0]
    predicted = torch.exp(solution @ design)
    solution[-1] += torch.log((torch.cat(energies).double() / predicted).mean())
    gain_square = torch.exp(solution @ design).float()
    spread = (torch.cat(planes, 1) / gain_square).mean(1).sqrt()
    head.gain_coefficients.copy_(solution.float())
    head.component_std.copy_(spread * torch.tensor([1.0, chroma_unit, chroma_unit]))
    head.trunk_std.copy_(torch.stack(trunks).mean().sqrt())


def make_batch(head: FlowHead, crops: CachedCrops, recipe: SftRecipe, index: int, own: slice = slice(None)) -> Batch:
    """Return a part of the batch of step `index`; the batch depends on the recipe's seed and the index alone."""
    generator = seeded_generator(recipe.seed, "batch", index)
    windows = crops.windows(recipe.optim.batch_size, recipe.data.window_px, generator, own)
    hq, lq, prior, trunk = (part.to(head.trunk_std.device) for part in windows)
    with torch.no_grad():
        return head_batch(hq, lq, prior, trunk, head.gain(prior, lq))


class Validation:
    """Held-out photographs, degraded once, restored with one seed each."""

    def __init__(self, config: ValidationConfig) -> None:
        self.pairs: list[tuple[str, Image, Image]] = []
        photos = find_photos([Path(config.photos)])
        for path in photos[: config.limit or None]:
            hq = read_image(path).pixels
            height, width = (side - side % 4 for side in hq.shape[-2:])
            hq = hq[..., :height, :width]
            for preset in config.presets:
                generator = seeded_generator("validation", path.name, preset)
                self.pairs.append((preset, hq, degrade(hq, preset, generator=generator)))

    def __call__(self, backbone: CompactBackbone) -> dict[str, float]:
        """Return PSNR (dB, RGB) and log-spectral distance (dB) of prior and head, one value a preset."""
        step, sigmas = _own_drawing(backbone)
        figures: dict[str, list[float]] = {}
        for preset, hq, lq in self.pairs:
            condition = backbone.encode(lq)
            drawn = draw_seed(backbone, condition, 0, step=step, sigmas=sigmas)
            outputs = {"prior": backbone.prior_image(condition), "head": drawn}
            for name, image in outputs.items():
                image = image.cpu()
                psnr = -10 * torch.log10(mse_loss(image, hq))
                figures.setdefault(f"{preset}/{name}_psnr", []).append(float(psnr))
                figures.setdefault(f"{preset}/{name}_lsd", []).append(float(log_spectral_distance(image, hq)))
        return {name: sum(values) / len(values) for name, values in figures.items()}


def _own_drawing(backbone: CompactBackbone) -> tuple[Step, Tensor]:
    """Return sampler and noise levels of the backbone's own setting."""
    drawing = RestoreRequest().drawing(backbone)
    return SAMPLERS[drawing.sampler], SCHEDULES[drawing.schedule](drawing.num_steps)


def _looks(recipe: SftRecipe, crops: CachedCrops, dtype: torch.dtype, device: str) -> list[Look]:
    """Return what is looked at during training: held-out photographs, and samples of the first crops."""

    def backbone(average: dict[str, Tensor]) -> CompactBackbone:
        head = FlowHead(recipe.head.widths, recipe.head.num_blocks)
        head.load_state_dict(average)
        return CompactBackbone(shared_prior(dtype, device), head, dtype=dtype, device=device)

    def draw_samples(done: int, average: dict[str, Tensor]) -> dict[str, float]:
        model = backbone(average)
        step, sigmas = _own_drawing(model)
        photos = [from_uint8(crops.lq[index]) for index in range(min(GROUPS, len(crops)))]
        sample_grid(photos, (model,), sample_path(Path(recipe.output), done), step=step, sigmas=sigmas)
        return {}

    looks = [Look(draw_samples, recipe.sample_every)]
    if recipe.validation is not None:
        validation = Validation(recipe.validation)
        looks.append(Look(lambda _, average: validation(backbone(average)), recipe.validation.every_steps))
    return looks


def _perceptual_term(recipe: SftRecipe, device: str) -> PerceptualTerm | None:
    """Return the recipe's perceptual term with its weights loaded; raises WeightsError if they are missing."""
    if recipe.perceptual is None:
        return None
    layers = load_lpips_layers(device)
    return PerceptualTerm(
        lambda image, target: lpips(image, target, layers), recipe.perceptual.weight, recipe.perceptual.share
    )


def train_sft(recipe: SftRecipe, *, resume: bool = False) -> Path:
    """Run the recipe and return the path of the final weights.

    Several processes share each batch; the first fills the cache, validates and writes. Writes checkpoints,
    `log.jsonl`, `recipe.json`, `summary.json`, `head.safetensors`, samples and a report into the recipe's output.
    Raises ConfigError if a resumed run would change, or the batch does not divide by the processes.
    """
    output = Path(recipe.output)
    check_start(output, resume=resume)
    processes = Processes(recipe.trackers, output)
    device = processes.device
    part = BatchPart(recipe.optim.batch_size, processes.share(recipe.optim.batch_size))
    dtype = resolve_dtype(recipe.dtype, device.type)
    start, cpu_start = time.monotonic(), time.process_time()
    if processes.is_main:
        cached_crops(recipe.data, seed=recipe.seed, dtype=dtype, device=str(device))
    processes.wait()
    crops = cached_crops(recipe.data, seed=recipe.seed, dtype=dtype, device=str(device))
    cache_s, cache_cpu_s = time.monotonic() - start, time.process_time() - cpu_start
    torch.manual_seed(recipe.seed)
    head = FlowHead(recipe.head.widths, recipe.head.num_blocks)
    fit_scales(head, crops, recipe.data.window_px, recipe.head.chroma_unit, recipe.seed)
    head.to(device).to(memory_format=torch.channels_last)
    if processes.is_main:
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / "recipe.json", json.dumps(recipe_values(recipe), indent=1))

    term = _perceptual_term(recipe, str(device))
    start_of_term = recipe.perceptual.from_step if recipe.perceptual else 0

    def step(index: int) -> StepOutput:
        batch = make_batch(head, crops, recipe, index, part.own)
        generator = seeded_generator(recipe.seed, "noise", index)
        own_term = term if index >= start_of_term else None
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return sft_step(head, batch, recipe.optim.pure_noise_share, generator, own_term, part)

    settings = RunSettings.of(recipe, output, resume=resume, values=recipe_values(recipe), processes=processes)
    looks = _looks(recipe, crops, dtype, str(device)) if processes.is_main else []
    average = fit(head, step, recipe.optim, settings, looks)
    final = output / "head.safetensors"
    if processes.is_main:
        replace_tensors(final, average, head_metadata(head))
        summary = {
            "cache_s": cache_s,
            "cache_cpu_s": cache_cpu_s,
            "crops": len(crops),
            "device": device.type,
            "dtype": str(dtype),
            "processes": processes.count,
        }
        replace_text(output / "summary.json", json.dumps(summary, indent=1))
        write_report(output)
    processes.wait()
    return final
