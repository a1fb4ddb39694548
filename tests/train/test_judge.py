import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from sr_core.errors import ConfigError
from sr_core.images import read_image, write_image
from sr_core.spectra import luma
from tests.lora import installed, save_lora
from train.config import parse_recipe
from train.judge import judge_adapters, judge_pair, judge_recipe, photo_pair, ssim
from train.judge_tables import CURVE, HOLD_OUTS, SFT, TRAINED, Values, compare
from train.preference_config import DrawConfig, HeldOutConfig, PreferRecipe

SEEDS = 4


@pytest.fixture(scope="module")
def held_out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two held-out crops of 192 px."""
    folder = tmp_path_factory.mktemp("held-out")
    for name in ("472_bluebird.png", "241_building.png"):
        pixels = read_image(photos / "eval" / name).pixels[..., 160:352, 160:352]
        write_image(folder / name, pixels, format="png")
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """Return the head itself, a LoRA at zero and one that was moved."""
    folder = tmp_path_factory.mktemp("adapters")
    save_lora(folder / "zero", spread=0.0)
    save_lora(folder / "moved", spread=0.02)
    return {SFT: None, "zero": folder / "zero", "moved": folder / "moved"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all runs; what was drawn lies in its folder `judged`."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def judged(held_out: Path, adapters: dict[str, Path | None], runs: Path) -> dict[str, dict[str, dict[str, Values]]]:
    """Return the scores of all three."""
    return judge_adapters(adapters, settings(held_out), DrawConfig(), runs / "judged")


@pytest.fixture(scope="module")
def recipe(held_out: Path, runs: Path) -> PreferRecipe:
    """Return a recipe that trained nothing, judged on the same photographs and seeds."""
    values = {
        "seed": 1,
        "output": str(runs / "run"),
        "dataset": "none",
        "cache": "none",
        "objective": {"name": "hpo", "beta": 20},
        "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": 2, "warmup_steps": 1, "decay_steps": 1},
        "held_out": {"photos": [str(held_out)], "presets": ["bicubic"], "num_candidates": SEEDS},
    }
    return parse_recipe(PreferRecipe, values, "test")


def settings(photos: Path, **changes: int) -> HeldOutConfig:
    values = {"num_candidates": SEEDS, **changes}
    return HeldOutConfig(photos=(str(photos),), presets=("bicubic",), **values)


def test_an_adapter_at_zero_gains_exactly_nothing(judged: dict[str, dict[str, dict[str, Values]]]) -> None:
    found = compare(judged, "zero", SFT)
    assert all(row["change"]["mean"] == 0 for row in found["reward"].values())
    assert all(row["gain"]["mean"] == 0 for row in found["metrics"].values())
    assert found["diversity"]["ratio"] == 1
    assert found["gates"]["no_hold_out_worse"]["holds"]
    assert not found["gates"]["a_hold_out_improves"]["holds"]
    assert not found["gates"]["mean_reward_rises_by_0.05"]["holds"]


def test_swapping_the_two_negates_every_gain(judged: dict[str, dict[str, dict[str, Values]]]) -> None:
    there, back = compare(judged, "moved", SFT), compare(judged, SFT, "moved")
    assert there["reward"]["mean"]["change"]["mean"] != 0
    for name, row in there["reward"].items():
        assert row["change"]["mean"] == pytest.approx(-back["reward"][name]["change"]["mean"])
    for name, row in there["metrics"].items():
        assert row["gain"]["mean"] == pytest.approx(-back["metrics"][name]["gain"]["mean"])


def test_gates_are_about_sft_alone(judged: dict[str, dict[str, dict[str, Values]]]) -> None:
    assert compare(judged, "moved", SFT)["gates"]["diversity_of_first_4_seeds_at_least_60_percent"]["holds"]
    assert compare(judged, "moved", "zero")["gates"] == {}


@pytest.mark.usefixtures("judged")
def test_an_adapter_against_itself_gains_exactly_nothing(
    adapters: dict[str, Path | None], recipe: PreferRecipe
) -> None:
    found = judge_pair(recipe, str(adapters["moved"]), str(adapters["moved"]))
    assert {found["ours"], found["theirs"]} == {"moved", "other_moved"}
    for row in (*found["reward"].values(), *found["metrics"].values()):
        assert set(row.get("change", row.get("gain")).values()) == {0.0}
        assert row["ours"] == row["theirs"]
    assert found["diversity"]["ratio"] == 1


@pytest.mark.usefixtures("judged")
def test_swapping_two_adapters_negates_every_gain(
    adapters: dict[str, Path | None], recipe: PreferRecipe, runs: Path
) -> None:
    there = judge_pair(recipe, str(adapters["moved"]), str(adapters["zero"]))
    back = judge_pair(recipe, str(adapters["zero"]), str(adapters["moved"]))
    for part, change in (("reward", "change"), ("metrics", "gain")):
        for name, row in there[part].items():
            assert row[change]["mean"] == pytest.approx(-back[part][name][change]["mean"])
            assert (row["ours"], row["theirs"]) == (back[part][name]["theirs"], back[part][name]["ours"])
    assert there["reward"]["mean"]["change"]["mean"] != 0
    assert "| figure | zero | moved | gain (95 % interval) |" in there["text"]
    assert "holds" not in there["text"]
    assert "missed" not in there["text"]
    assert (runs / "run" / "judged_moved_against_zero.json").is_file()


@pytest.mark.usefixtures("judged")
def test_an_installed_adapter_is_judged_by_name_without_a_trained_run(
    recipe: PreferRecipe, runs: Path, tmp_path: Path
) -> None:
    with installed(tmp_path, hpo=0.02):
        found = judge_pair(recipe, "hpo")
        assert found["gates"]
        assert judge_pair(recipe, "hpo", "sft") == found
        assert compare_names(judge_pair(recipe, "hpo", "hpo")) == ("hpo", "other_hpo")
        with pytest.raises(ConfigError, match=r"one of sft, hpo, got 'as_dpo'"):
            judge_pair(recipe, "as_dpo")
        with pytest.raises(ConfigError, match="sft must be a trained adapter"):
            judge_pair(recipe, "sft", "hpo")
        with pytest.raises(ConfigError, match="run: python -m train prefer RECIPE"):
            judge_pair(recipe, "", "hpo")
    assert not (runs / "run" / "judged.json").exists()


@pytest.mark.usefixtures("judged")
def test_the_adapter_that_a_recipe_trained_is_compared_by_default(
    adapters: dict[str, Path | None], recipe: PreferRecipe, runs: Path
) -> None:
    assert adapters["moved"] is not None
    trained = Path(shutil.copytree(adapters["moved"], runs / "run" / "adapter"))
    try:
        alone = judge_recipe(recipe, trained)
        assert compare_names(alone) == ("hpo", SFT)
        assert judge_pair(recipe) == alone
        by_folder = judge_pair(recipe, str(trained))
        assert compare_names(by_folder) == ("run", SFT)
        assert by_folder["reward"] == alone["reward"]
    finally:
        shutil.rmtree(trained)
        (runs / "run" / "judged.json").unlink()


def compare_names(content: dict[str, object]) -> tuple[object, object]:
    return content["ours"], content["theirs"]


def test_curves_meet_at_one_draw_and_end_at_the_extremes(judged: dict[str, dict[str, dict[str, Values]]]) -> None:
    found = compare(judged, "moved", SFT)
    for curves in found["curves"].values():
        assert curves["best"][1] == pytest.approx(curves["mean"][1]) == pytest.approx(curves["worst"][1])
        best, worst = list(curves["best"].values()), list(curves["worst"].values())
        assert best == sorted(best)
        assert worst == sorted(worst, reverse=True)
    assert found["curves"]["moved"]["best"][SEEDS] == pytest.approx(found["reward"]["best"]["ours"])
    assert found["curves"]["moved"]["worst"][SEEDS] == pytest.approx(found["reward"]["worst"]["ours"])


def test_finished_parts_are_not_drawn_again_and_missing_ones_are(
    held_out: Path, judged: dict[str, dict[str, dict[str, Values]]], tmp_path: Path
) -> None:
    only = {SFT: None}
    first = judge_adapters(only, settings(held_out), DrawConfig(), tmp_path)
    assert first[SFT] == judged[SFT]
    kept, lost = sorted(tmp_path.glob("parts/*/*/*.json"))
    marked = json.loads(kept.read_text(encoding="utf-8")) | {"mark": [1.0]}
    kept.write_text(json.dumps(marked), encoding="utf-8")
    lost.unlink()
    again = judge_adapters(only, settings(held_out), DrawConfig(), tmp_path)
    kept_name, lost_name = (path.stem.split(".")[0] for path in (kept, lost))
    assert again[SFT]["bicubic"][kept_name] == marked
    assert again[SFT]["bicubic"][lost_name] == judged[SFT]["bicubic"][lost_name]


def test_another_photograph_of_the_same_name_is_drawn_anew(held_out: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    shutil.copyfile(held_out / "472_bluebird.png", photos / "same.png")
    first = judge_adapters({SFT: None}, settings(photos), DrawConfig(), out)[SFT]["bicubic"]["same"]
    shutil.copyfile(held_out / "241_building.png", photos / "same.png")
    second = judge_adapters({SFT: None}, settings(photos), DrawConfig(), out)[SFT]["bicubic"]["same"]
    assert first["psnr"] != second["psnr"]
    assert len(list(out.glob("parts/*/*/*.json"))) == 2


def test_other_seeds_are_other_candidates(
    held_out: Path, judged: dict[str, dict[str, dict[str, Values]]], tmp_path: Path
) -> None:
    fresh = judge_adapters({SFT: None}, settings(held_out, seed=5, limit=1), DrawConfig(), tmp_path)
    (photo,) = fresh[SFT]["bicubic"]
    assert fresh[SFT]["bicubic"][photo]["psnr"] != judged[SFT]["bicubic"][photo]["psnr"]


def test_every_metric_of_the_contract_is_there(judged: dict[str, dict[str, dict[str, Values]]]) -> None:
    for values in judged["moved"]["bicubic"].values():
        assert {*TRAINED, *HOLD_OUTS, "ssim", "diversity"} == values.keys()
        assert all(len(entries) == SEEDS and np.isfinite(entries).all() for entries in values.values())
    assert not set(TRAINED) & set(HOLD_OUTS)
    assert max(CURVE) == 16


def test_structural_similarity_matches_the_reference_implementation(held_out: Path) -> None:
    hq, lq = photo_pair(held_out / "241_building.png", "bicubic")
    image = torch.nn.functional.interpolate(lq, scale_factor=4, mode="nearest")
    found = float(ssim(image, hq))
    a, b = (luma(x)[0].double().numpy() for x in (image, hq))
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, full = structural_similarity(a, b, full=True, **options)
    assert found == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)


def test_photographs_of_one_name_are_refused(held_out: Path, tmp_path: Path) -> None:
    double = HeldOutConfig(photos=(str(held_out), str(held_out)), presets=("bicubic",))
    with pytest.raises(ConfigError, match="differ in name"):
        judge_adapters({SFT: None}, double, DrawConfig(), tmp_path)
