"""Held-out judging of adapters: the same photographs, degradations and fresh seeds for each, scored once."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sr_core.backbones import adapter_path, available_adapters
from sr_core.backbones.compact import HEAD_FILE, CompactBackbone, load_compact
from sr_core.degradations import degrade
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.images import from_uint8, read_image, to_uint8
from sr_core.noise import block_noise
from sr_core.precision import resolve_dtype
from sr_core.restorer import MAX_CANDIDATES, Restorer, RestoreRequest
from sr_core.rewards import GroupScorer
from sr_core.rewards.lpips import lpips
from sr_core.rewards.offline import load_lpips_layers
from sr_core.rewards.registry import load_metric
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.spectra import log_spectral_distance, luma
from sr_core.tensors import Enlarged, Image, PerSample
from train.compact_trainee import head_file
from train.data import find_photos, seeded_generator
from train.drawing import adapter_file, backbone_digests, part_digest, request_of, restorer_of
from train.judge_tables import FEW_SEEDS, SFT, Values, compare, judgement_text
from train.preference_config import BackboneConfig, DrawConfig, HeldOutConfig, PreferRecipe
from train.processes import Processes
from train.trainees import ADAPTER, BRANCH, trained_folder

METRIC_SET = "train_offline"
COMPACT = BackboneConfig()
HOLD_OUT_METRICS = ("st_lpips", "piqe")
"""Hold-outs that are loaded; LSD and PSNR are the others."""


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def candidates_key(adapter: Path | None, head: Path, settings: HeldOutConfig, draw: DrawConfig, dtype: str) -> str:
    """Return the hash of everything that decides what is drawn for a photograph."""
    weights = "none" if adapter is None else _file_hash(adapter / "adapter_model.safetensors")
    parts = (weights, _file_hash(head), settings.seed, settings.num_candidates, METRIC_SET, dtype)
    drawing = (draw.num_steps, draw.sampler, draw.schedule)
    return hashlib.sha256("/".join(map(str, (*parts, *drawing))).encode()).hexdigest()[:24]


def photo_pair(path: Path, preset: str) -> tuple[Enlarged, Image]:
    """Return (HQ, LQ) of a held-out photograph; the degradation depends on its name and the preset alone."""
    hq = read_image(path).pixels
    height, width = (side - side % 4 for side in hq.shape[-2:])
    hq = hq[..., :height, :width]
    return hq, degrade(hq, preset, generator=seeded_generator("evaluate", path.stem, preset))


def draw_candidates(backbone: CompactBackbone, lq: Image, settings: HeldOutConfig, draw: DrawConfig) -> list[Enlarged]:
    """Return one candidate per fresh seed, rounded to the 8 bits that a user downloads."""
    condition = backbone.encode(lq)
    channels, height, width = backbone.latent_shape(lq)
    step, sigmas = SAMPLERS[draw.sampler], SCHEDULES[draw.schedule](draw.num_steps)
    images = []
    for seed in range(settings.seed, settings.seed + settings.num_candidates):
        noise = block_noise(seed, channels, 0, 0, height, width).to(backbone.device)
        latent = integrate(step, lambda x, s: backbone.velocity(x, s, condition), noise, sigmas)
        image = backbone.decode(latent, condition)
        if not bool(torch.isfinite(image).all()):
            raise FloatingPointError(f"seed {seed} gave values that are not finite")
        images.append(from_uint8(to_uint8(image.clamp(0, 1).cpu())))
    return images


def ssim(images: Image, reference: Float[Tensor, "1 3 h w"]) -> PerSample:
    """Return the structural similarity of luma with an 11 px Gaussian window of 1.5 px, one value per image.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004, Eq. 13.
    """
    taps = torch.exp(-(torch.arange(11.0) - 5).square() / (2 * 1.5**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    x, y = luma(images)[:, None], luma(reference)[:, None].expand(len(images), -1, -1, -1)

    def blur(z: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(z, window)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    a, b = 0.01**2, 0.03**2
    quality = (2 * mean_x * mean_y + a) * (2 * cov + b) / ((mean_x**2 + mean_y**2 + a) * (var_x + var_y + b))
    return quality.mean((1, 2, 3))


def drawn_by(restorer: Restorer, lq: Image, request: RestoreRequest) -> list[Enlarged]:
    """Return one candidate per seed of a request, rounded to the 8 bits that a user downloads."""
    images = []
    for candidate in restorer.restore(lq, request):
        if candidate.pixels is None:
            raise FloatingPointError(f"seed {candidate.seed} failed: {candidate.problem}")
        images.append(from_uint8(to_uint8(candidate.pixels)))
    return images


def _latent_key(backbone: BackboneConfig, trained: Path | None, settings: HeldOutConfig, draw: DrawConfig) -> str:
    """Return the hash of everything that decides what a latent backbone draws for a photograph."""
    weights = None if trained is None else part_digest(trained)
    parts = (weights, backbone_digests(backbone), backbone, settings.seed, settings.num_candidates, METRIC_SET, draw)
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:24]


Draw = Callable[[Image], list[Enlarged]]


def _drawer(
    backbone: BackboneConfig, head: Path, adapter: Path | None, settings: HeldOutConfig, draw: DrawConfig
) -> Draw:
    """Return what draws the fresh seeds of a photograph."""
    if backbone.name == "compact":
        loaded = load_compact(dtype=resolve_dtype("auto", "cpu"), head=head, adapter=adapter)
        return lambda lq: draw_candidates(loaded, lq, settings, draw)
    device = Processes().device
    restorer = restorer_of(backbone, adapter, dtype=resolve_dtype("auto", device.type), device=str(device))
    seeds = range(settings.seed, settings.seed + settings.num_candidates, MAX_CANDIDATES)

    def of(lq: Image) -> list[Enlarged]:
        images: list[Enlarged] = []
        for seed in seeds:
            count = min(MAX_CANDIDATES, settings.seed + settings.num_candidates - seed)
            images += drawn_by(restorer, lq, request_of(backbone, draw, seed=seed, count=count))
        return images

    return of


class Judge:
    """Loads the metrics once and scores candidates of photograph after photograph."""

    def __init__(self) -> None:
        self.scorer = GroupScorer(METRIC_SET)
        if self.scorer.missing:
            raise ConfigError(f"judging needs every metric of {METRIC_SET}: {self.scorer.missing[0].reason}")
        self.hold_outs = {name: load_metric(name, "cpu") for name in HOLD_OUT_METRICS}
        self.layers = load_lpips_layers("cpu")

    @torch.inference_mode()
    def score(self, images: Sequence[Enlarged], hq: Enlarged, lq: Image) -> Values:
        """Return every metric's raw values, one per candidate, and the LPIPS from each seed to the next."""
        scores = self.scorer.score([to_uint8(image) for image in images], lq=lq, reference=hq)
        stacked = torch.cat(list(images))
        few = stacked[:FEW_SEEDS]
        values: Values = {name: list(map(float, raw)) for name, raw in scores.raw.items()}
        for name, metric in self.hold_outs.items():
            shown = few if name == "st_lpips" else stacked
            values[name] = metric(shown, hq if metric.spec.full_reference else None).tolist()
        values["lsd"] = log_spectral_distance(stacked, hq.expand_as(stacked)).tolist()
        values["psnr"] = (-10 * torch.log10((stacked - hq).square().mean((1, 2, 3)))).tolist()
        values["ssim"] = ssim(few, hq).tolist()
        values["diversity"] = lpips(few, few.roll(1, 0), self.layers).tolist()
        return values


class HeldOutPhoto(NamedTuple):
    """A photograph that judges."""

    path: Path
    digest: str
    """SHA-256 of the file, so that another photograph of the same name is another one."""

    def part(self, folder: Path, key: str, preset: str) -> Path:
        """Return where the scores lie that the adapter and settings of `key` got on this photograph."""
        return folder / "parts" / key / preset / f"{self.path.stem}.{self.digest[:16]}.json"


def held_out_photos(settings: HeldOutConfig) -> list[HeldOutPhoto]:
    """Return the photographs that the settings name; raises ConfigError if two have the same name."""
    paths = [path for folder in settings.photos for path in find_photos([Path(folder)])][: settings.limit or None]
    if len({path.stem for path in paths}) < len(paths):
        raise ConfigError("held-out photographs must differ in name, two have the same")
    return [HeldOutPhoto(path, _file_hash(path)) for path in paths]


def judge_adapters(
    adapters: Mapping[str, Path | None],
    settings: HeldOutConfig,
    draw: DrawConfig,
    out: Path,
    *,
    head: Path = HEAD_FILE,
    backbone: BackboneConfig = COMPACT,
) -> dict[str, dict[str, dict[str, Values]]]:
    """Return {adapter: {preset: {photograph: {metric: values}}}}; None as a folder is the model before training.

    Each (adapter, photograph, preset) is drawn and scored once and kept in `out`, whole or not at all, so that a killed
    run goes on and adapters can be added later. Several processes share the photographs.
    """
    processes = Processes()
    dtype = resolve_dtype("auto", "cpu")
    photos = held_out_photos(settings)
    is_compact = backbone.name == "compact"
    keys = {
        name: candidates_key(path, head, settings, draw, str(dtype))
        if is_compact
        else _latent_key(backbone, path, settings, draw)
        for name, path in adapters.items()
    }
    judge: Judge | None = None
    for name, adapter in adapters.items():
        wanted = [(photo, preset) for photo in photos for preset in settings.presets]
        missing = [w for w in wanted if not w[0].part(out, keys[name], w[1]).is_file()]
        own = [w for i, w in enumerate(wanted) if i % processes.count == processes.index and w in set(missing)]
        if not own:
            continue
        judge = judge or Judge()
        drawn = _drawer(backbone, head, adapter, settings, draw)
        for photo, preset in tqdm(own, desc=f"judging {name}", unit="photo", disable=not processes.is_main):
            hq, lq = photo_pair(photo.path, preset)
            values = judge.score(drawn(lq), hq, lq)
            path = photo.part(out, keys[name], preset)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps(values))
    processes.wait()
    return {
        name: {
            preset: {
                photo.path.stem: json.loads(photo.part(out, key, preset).read_text(encoding="utf-8"))
                for photo in photos
            }
            for preset in settings.presets
        }
        for name, key in keys.items()
    }


def judge_recipe(recipe: PreferRecipe, adapter: Path) -> dict[str, Any]:
    """Judge an adapter against the model before it on the recipe's held-out photographs.

    Writes `judged.json` into the recipe's output and returns its content, with a table under "text".
    Raises ConfigError if the recipe names no held-out photographs or the adapter is not there.
    """
    return _judge_two(recipe, (recipe.objective.name, adapter), (SFT, _start(recipe)), "judged.json")


def judge_pair(recipe: PreferRecipe, adapter: str = "", against: str = "") -> dict[str, Any]:
    """Judge an adapter against another on the recipe's held-out photographs: same seeds, rewards over their union.

    Each is a folder or the name of an installed adapter. Where none is named, `adapter` is the one that the recipe
    trained and `against` the model before it. Writes `judged_ADAPTER_against_OTHER.json` into the recipe's output and
    returns its content, with a table under "text". Raises ConfigError as `judge_recipe` does.
    """
    trained = recipe.objective.name, trained_folder(recipe)
    ours = _named_adapter(recipe, adapter) if adapter else trained
    theirs = _named_adapter(recipe, against) if against else (SFT, _start(recipe))
    if theirs[0] == ours[0]:
        theirs = f"other_{theirs[0]}", theirs[1]
    return _judge_two(recipe, ours, theirs, f"judged_{ours[0]}_against_{theirs[0]}.json")


def _start(recipe: PreferRecipe) -> Path | None:
    """Return the adapter of the compact model before training; a latent backbone adds its own to what it loads."""
    is_compact = recipe.backbone.name == "compact"
    return Path(recipe.backbone.adapter) if is_compact and recipe.backbone.adapter is not None else None


def _named_adapter(recipe: PreferRecipe, named: str) -> tuple[str, Path | None]:
    """Return the table's word for an adapter, and where it lies: a folder, or what is installed under a name."""
    folder = Path(named)
    if adapter_file(folder) is not None:
        inner = folder.resolve()
        name = (inner.parent if inner.name in (ADAPTER, BRANCH) else inner).name
        return f"other_{name}" if name == SFT else name, folder
    if named == SFT:
        return SFT, _start(recipe)
    known = available_adapters(recipe.backbone.name)
    if named not in known:
        raise ConfigError(f"an adapter must be its folder or one of {', '.join(known)}, got {named!r}")
    return named, adapter_path(recipe.backbone.name, named)


def _judge_two(
    recipe: PreferRecipe, ours: tuple[str, Path | None], theirs: tuple[str, Path | None], result: str
) -> dict[str, Any]:
    """Write what changes from `theirs` to `ours`, each a name and a folder, as `result` into the recipe's output."""
    if recipe.held_out is None:
        raise ConfigError("judging needs the section held_out: photos that never train")
    file = None if ours[1] is None else adapter_file(ours[1])
    if file is None:
        raise ConfigError(f"{ours[1] or ours[0]} must be a trained adapter; run: python -m train prefer RECIPE")
    if theirs[1] is not None and adapter_file(theirs[1]) is None:
        raise ConfigError(f"{theirs[1]} must be a trained adapter")
    backbone, out = recipe.backbone, Path(recipe.output)
    values = judge_adapters(
        dict((theirs, ours)),
        recipe.held_out,
        recipe.draw,
        out.parent / "judged",
        head=head_file(backbone) if backbone.name == "compact" else HEAD_FILE,
        backbone=backbone,
    )
    content = compare(values, ours[0], theirs[0])
    content["adapter_sha256"] = _file_hash(file)
    content["text"] = judgement_text(content)
    out.mkdir(parents=True, exist_ok=True)
    replace_text(out / result, json.dumps(content, indent=1) + "\n")
    return content
