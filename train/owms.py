"""Losses of one-step restoration: L2, LPIPS, and alignment with an encoder's view of the truth and of words.

Hero-SR (arXiv 2412.07152) names the two alignments and publishes no formula; these stand-ins are ours, after CLIP-IQA
(arXiv 2207.12396) for the text domain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, log_softmax

from sr_core.errors import ConfigError, WeightsError
from sr_core.rewards.dinov2 import load_dinov2, semantic_distance
from sr_core.rewards.lpips import lpips
from sr_core.rewards.offline import load_lpips_layers
from sr_core.tensors import Image, PerSample
from train.one_step_config import OwmsConfig

Features = Float[Tensor, "b d"]
Encoder = Callable[[Image], Features]
ClipModel: TypeAlias = Any
"""Of transformers, which is imported only where a recipe asks for it."""
Tokenizer: TypeAlias = Any
Loaded = TypeVar("Loaded")
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def text_alignment(
    features: Features, positive: Float[Tensor, "k d"], negative: Float[Tensor, "k d"], temperature: float
) -> PerSample:
    """Return -(1/K) sum_k log s_k, how far each image is from the positive side of K antonym pairs.

    s_k = exp(cos(f, p_k) / T) / (exp(cos(f, p_k) / T) + exp(cos(f, n_k) / T)); 0 is wholly positive.
    """
    unit, plus, minus = (torch.nn.functional.normalize(x, dim=1) for x in (features, positive, negative))
    logits = torch.stack([unit @ plus.T, unit @ minus.T], 2) / temperature
    return -log_softmax(logits, dim=2)[..., 0].mean(1)


class TextTower(NamedTuple):
    """An image encoder with the features of antonym prompts in the same space."""

    encode: Encoder
    positive: Float[Tensor, "k d"]
    negative: Float[Tensor, "k d"]


@dataclass(frozen=True, kw_only=True)
class Owms:
    """The losses of a recipe with their encoders loaded; one value per sample each."""

    config: OwmsConfig
    lpips: Callable[[Image, Image], PerSample] | None
    image: Encoder | None
    text: TextTower | None

    def __call__(self, image: Image, target: Image, l2: PerSample, encoded: int) -> dict[str, PerSample]:
        """Return every loss of weight above 0 by name, unweighted; `l2` is the backbone's own.

        Encoders cost most: they look at the first `encoded` images, whose values then count for all.
        """
        terms = {"l2": l2} if self.config.l2 else {}
        if self.lpips is not None:
            terms["lpips"] = self.lpips(image, target)
        if not encoded:
            return terms

        def spread(values: Tensor) -> Tensor:
            return torch.cat([values * (len(l2) / encoded), values.new_zeros(len(l2) - encoded)])

        if self.image is not None:
            with torch.no_grad():
                reference = self.image(target[:encoded])
            terms["image"] = spread(semantic_distance(self.image(image[:encoded]), reference))
        if self.text is not None:
            tower = self.text
            features = tower.encode(image[:encoded])
            found = text_alignment(features, tower.positive, tower.negative, self.config.text_temperature)
            terms["text"] = spread(found)
        return terms

    def total(self, terms: dict[str, PerSample]) -> PerSample:
        """Return the weighted sum."""
        return torch.stack([float(getattr(self.config, name)) * value for name, value in terms.items()]).sum(0)


def _clip(source: str, term: str) -> tuple[ClipModel, Tokenizer]:
    """Return a CLIP model and its tokenizer from a local folder or the hub's cache; nothing is downloaded."""
    from transformers import AutoTokenizer, CLIPModel

    try:
        model = CLIPModel.from_pretrained(source, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = str(error).strip().split("\n", 1)[0][:160]
        raise ConfigError(
            f"losses.{term} has a weight, so its encoder must be there: {source!r} is no CLIP model in safetensors, "
            f"neither as a folder nor in the hub's cache ({reason}); put it there or set losses.{term} to 0"
        ) from error
    return model, tokenizer


def clip_encoder(model: ClipModel) -> Encoder:
    """Return the image tower of a CLIP model as a differentiable function of images in [0, 1]."""
    side = int(model.config.vision_config.image_size)

    def encode(images: Image) -> Features:
        resized = interpolate(images, size=(side, side), mode="bicubic", antialias=True)
        mean, std = (images.new_tensor(v)[:, None, None] for v in (_CLIP_MEAN, _CLIP_STD))
        return _pooled(model.get_image_features(pixel_values=(resized - mean) / std))

    return encode


def _pooled(output: object) -> Features:
    """Return the projected features, which newer transformers wrap in a record."""
    return output if isinstance(output, Tensor) else cast(Any, output).pooler_output


@torch.no_grad()
def prompt_features(model: ClipModel, tokenizer: Tokenizer, prompts: Sequence[str]) -> Float[Tensor, "k d"]:
    """Return the text tower's features of prompts."""
    tokens = tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(model.device)
    return _pooled(model.get_text_features(**tokens))


def load_owms(config: OwmsConfig, device: str) -> Owms:
    """Load what the recipe's losses need.

    Raises ConfigError that names the first loss whose weights are absent: a loss is never dropped in silence.
    """
    distance: Callable[[Image, Image], PerSample] | None = None
    image: Encoder | None = None
    text: TextTower | None = None
    if config.lpips:
        layers = _needed("lpips", lambda: load_lpips_layers(device))

        def distance(x: Image, y: Image) -> PerSample:
            return lpips(x, y, layers)

    if config.image and config.image_encoder == "dinov2":
        image = _needed("image", lambda: load_dinov2(device))
    elif config.image:
        model, _ = _clip(config.image_encoder, "image")
        image = clip_encoder(model.to(device).eval().requires_grad_(False))
    if config.text:
        if config.text_encoder is None:
            raise ConfigError(
                "losses.text has a weight and needs a text tower: name a CLIP model in losses.text_encoder "
                "(DINOv2 has none), or set losses.text to 0"
            )
        model, tokenizer = _clip(config.text_encoder, "text")
        model.to(device).eval().requires_grad_(False)
        sides = [prompt_features(model, tokenizer, [pair[side] for pair in config.prompts]) for side in (0, 1)]
        text = TextTower(clip_encoder(model), *sides)
    return Owms(config=config, lpips=distance, image=image, text=text)


def _needed(term: str, load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except WeightsError as error:
        raise ConfigError(f"losses.{term} has a weight, so its weights must be there: {error}") from error
