from pathlib import Path

import pytest
import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from sr_core.backbones.tagger import describe_photo
from sr_core.errors import WeightsError


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "bird", "on", "stone"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(str(folder))
    torch.manual_seed(0)
    text = {
        "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16, "bos_token_id": 5, "eos_token_id": 2,
        "pad_token_id": 0, "sep_token_id": 3,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 16,
    }  # fmt: skip
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(str(folder))
    return folder


def test_a_photo_is_described_the_same_each_time(captioner: Path) -> None:
    photo = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    words = describe_photo(photo, captioner)
    assert words == describe_photo(photo, captioner)
    assert words.isprintable()
    assert len(words) <= 300


def test_a_folder_that_holds_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="must hold a BLIP captioner"):
        describe_photo(torch.zeros(1, 3, 32, 32), tmp_path)
