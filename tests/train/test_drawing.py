import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sr_core.backbones import drawing_of
from sr_core.errors import ConfigError
from sr_core.images import read_image, write_image
from sr_core.preference_data.dataset import open_dataset
from tests.train.latent_case import save_backbone
from train.config import parse_recipe
from train.curate import curate
from train.drawing import backbone_digests, part_digest, request_of
from train.judge import judge_adapters
from train.preference_config import BackboneConfig, CurateRecipe, DrawConfig, HeldOutConfig

DRAW = {"num_candidates": 2, "num_steps": 2, "sampler": "native", "guidance": 1.5}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the section `backbone` of a tiny C-SD2."""
    return save_backbone("sd2-epsilon", tmp_path_factory.mktemp("sd2"))


def test_curation_draws_from_a_latent_backbone_and_says_which(
    backbone: dict[str, Any], crops: Path, tmp_path: Path
) -> None:
    values = {
        "seed": 1, "output": str(tmp_path / "data"), "crops": str(crops), "num_groups": 1, "presets": {"bicubic": 1.0},
        "backbone": backbone, "draw": DRAW, "top": 1, "dtype": "float32",
    }  # fmt: skip
    dataset = open_dataset(curate(parse_recipe(CurateRecipe, values, "test")))
    assert len(dataset) == 1
    images = dataset.group(0).images
    assert images.shape == (2, 256, 256, 3)
    assert not (images[0] == images[1]).all()
    row = dataset.rows(0).to_pylist()[0]
    assert (row["model_id"], row["sampler"], row["guidance"]) == ("c-sd2", "native", 1.5)
    drawing = drawing_of("c-sd2", {})
    assert row["control_scale"] == 1.0
    assert json.loads(row["tile_cfg"]) == {
        "tile": drawing.tile, "prompt": "", "negative_prompt": drawing.negative_prompt, "start": drawing.start,
        "strength": drawing.strength,
    }  # fmt: skip
    assert row["model_revision"] == backbone_digests(BackboneConfig(**backbone))["head"]


def test_judging_compares_a_trained_branch_with_the_one_before(
    backbone: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    pixels = read_image(photos / "eval" / "472_bluebird.png").pixels[..., :192, :192]
    write_image(tmp_path / "photos" / "bird.png", pixels, format="png")
    trained = save_backbone("sd15", tmp_path / "other")["controlnet"]
    settings = HeldOutConfig(photos=(str(tmp_path / "photos"),), presets=("bicubic",), num_candidates=2)
    config = BackboneConfig(**backbone)
    judged = judge_adapters(
        {"sft": None, "hpo": Path(trained)}, settings, DrawConfig(**DRAW), tmp_path / "judged", backbone=config
    )
    for values in (judged["sft"]["bicubic"]["bird"], judged["hpo"]["bicubic"]["bird"]):
        assert len(values["psnr"]) == 2
    assert len(list((tmp_path / "judged" / "parts").iterdir())) == 2


def test_a_digest_tells_weights_apart_wherever_they_lie(backbone: dict[str, Any], tmp_path: Path) -> None:
    base = Path(backbone["base"])
    copied = tmp_path / "copy"
    shutil.copytree(base, copied)
    assert part_digest(copied) == part_digest(base)
    file = next(copied.rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert part_digest(copied) != part_digest(base)


def test_compact_is_asked_for_no_guidance_and_others_for_the_recipes() -> None:
    draw = DrawConfig(guidance=2.5, sampler="euler")
    assert request_of(BackboneConfig(), draw, seed=3, count=2).guidance is None
    asked = request_of(BackboneConfig(name="c-flux", prompt="a bird"), draw, seed=3, count=2)
    assert (asked.guidance, asked.prompt, asked.seeds) == (2.5, "a bird", (3, 4))
    with pytest.raises(ConfigError):
        request_of(BackboneConfig(), DrawConfig(num_steps=1000), seed=0, count=2)
