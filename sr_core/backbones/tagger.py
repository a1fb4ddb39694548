"""An optional captioner that describes a photo for the prompt: BLIP from a local folder."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sr_core.backbones.loading import load_network
from sr_core.errors import WeightsError
from sr_core.images import to_uint8
from sr_core.tensors import Image

MAX_TOKENS = 30


class Tagger(NamedTuple):
    """A captioner with what prepares its input."""

    processor: Any
    network: Any


@lru_cache(maxsize=1)
def load_tagger(folder: Path) -> Tagger:
    """Return the captioner of a folder, on the CPU, where one short text costs little.

    Raises WeightsError if the folder does not hold one.
    """
    from transformers import BlipForConditionalGeneration, BlipProcessor

    try:
        processor = BlipProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} must hold a BLIP captioner: {error}") from error
    return Tagger(processor, load_network(BlipForConditionalGeneration, folder, ".", dtype=torch.float32))


@torch.no_grad()
def describe_photo(photo: Image, folder: Path) -> str:
    """Return a caption of one photo, in printable words; the most likely one, so that it is the same each time."""
    processor, network = load_tagger(folder)
    pixels = to_uint8(photo.clamp(0, 1).cpu())
    inputs = processor(images=pixels, return_tensors="pt")
    tokens = network.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=1, do_sample=False)
    text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    return "".join(letter for letter in text if letter.isprintable()).strip()[:300]
