import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from sr_core import pipeline
from sr_core.backbones.backbone import Backbone, LoadOptions
from sr_core.backbones.stable_diffusion import StableDiffusion
from sr_core.errors import ConfigError, InputError, WeightsError
from sr_core.images import read_image, read_marker, read_output, to_uint8, write_image
from sr_core.job import Job
from sr_core.pipeline import Progress, restorer_for, upscale
from sr_core.resampling import resize_clamped
from sr_core.restorer import Restorer
from sr_core.runs import Run
from sr_core.scoring import score_files
from sr_core.ui.visits import job_of
from tests.lora import installed
from tests.sr_core.test_restorer import Fakes
from tests.tiny_models import tiny_sd2

TINY: dict[str, Any] = {"num_candidates": 2, "num_steps": 1, "dtype": "float32"}


@pytest.fixture(scope="module")
def photo(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "bird.png"
    write_image(path, read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:232, 180:220], format="png")
    return path


def finished(*arguments: Any, **settings: Any) -> Run:
    *_, last = upscale(*arguments, **settings)
    return last.run


def test_a_run_streams_is_ranked_and_lies_whole_on_disk(photo: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    for progress in upscale(photo, tmp_path / "run", Job(**TINY, seed=5)):
        seen.append(progress)
        stored = Run.open(tmp_path / "run")
        if progress.stage != "scoring":
            assert stored == progress.run
    assert [(p.stage, len(p.run.candidates)) for p in seen] == [
        ("drawing", 1), ("drawing", 2), ("scoring", 2), ("done", 2),
    ]  # fmt: skip
    run = seen[-1].run
    assert run.values["status"] == "done"
    assert [record.seed for record in run.candidates] == [5, 6]
    assert sorted(record.rank or 0 for record in run.candidates) in ([1, 2], [1, 1])
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "bird_seed5.png", "bird_seed6.png", "input.png", "prior.png", "run.json",
    ]  # fmt: skip


def test_a_file_shows_the_candidates_own_pixels(photo: Path, tmp_path: Path) -> None:
    job = Job(**TINY)
    run = finished(photo, tmp_path / "run", job)
    lq = read_image(photo).pixels
    drawn = restorer_for("compact", "sft", "float32").restore(lq, job.request((40, 32)))
    for record, candidate in zip(run.candidates, drawn, strict=True):
        assert candidate.pixels is not None
        with PIL.Image.open(run.path(record)) as image:
            assert torch.equal(
                torch.from_numpy(to_uint8(candidate.pixels)),
                torch.tensor(image.get_flattened_data()).reshape(128, 160, 3).to(torch.uint8),
            )


def test_run_json_says_what_was_done(photo: Path, tmp_path: Path) -> None:
    run = finished(photo, tmp_path / "run", Job(**TINY))
    content = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert content["input"] == {
        "file": "input.png",
        "name": "bird.png",
        "width": 40,
        "height": 32,
        "sha256": hashlib.sha256(photo.read_bytes()).hexdigest(),
    }
    assert (run.folder / "input.png").read_bytes() == photo.read_bytes()
    expected = {"backbone": "compact", "adapter": "sft", "dtype": "float32", "steps": 1, "metric_set": "offline"}
    assert {key: content[key] for key in expected} == expected
    assert content["reference"] is False
    assert content["size"] == [160, 128]
    assert content["metrics"]
    for candidate in content["candidates"]:
        assert {"seed", "rank", "reward", "scores", "file"} <= candidate.keys()
        assert candidate["scores"].keys() == {metric["key"] for metric in content["metrics"]}


@pytest.fixture(scope="module")
def tiny_sd2_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    tiny_sd2(root / "c-sd2")
    return root


@pytest.fixture
def tiny_weights(tiny_sd2_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let tiny weights stand where full ones would, on a machine with room for these."""
    monkeypatch.setenv("SR_WEIGHTS", str(tiny_sd2_weights))
    monkeypatch.setattr("sr_core.estimate.usable_memory", lambda job: 2**60)  # noqa: ARG005
    restorer_for.cache_clear()
    yield tiny_sd2_weights
    restorer_for.cache_clear()


LARGE: dict[str, Any] = {
    "num_candidates": 2, "num_steps": 2, "backbone": "c-sd2", "dtype": "float32", "tile": 16, "prompt": "a bird",
    "start": "lq", "guidance": 2.0,
}  # fmt: skip


def test_a_large_backbones_run_holds_all_that_draws_it_again(
    photo: Path,
    tmp_path: Path,
    tiny_weights: Path,  # noqa: ARG001
) -> None:
    run = finished(photo, tmp_path / "run", Job(**LARGE, seed=5))
    values = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    expected = {
        "backbone": "c-sd2", "steps": 2, "sampler": "native", "schedule": "linear", "color": "adain", "tile": 16,
        "guidance": 2.0, "prompt": "a bird", "negative_prompt": "dotted, noise, blur, lowres, smooth", "start": "lq",
        "strength": 1.0,
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected
    again = finished(photo, tmp_path / "again", replace(job_of(run), dtype="float32"))
    for record, other in zip(run.candidates, again.candidates, strict=True):
        assert np.array_equal(read_output(run.path(record)).pixels, read_output(again.path(other)).pixels)
    assert (run.folder / "prior.png").is_file()


def test_a_tile_that_was_halved_is_a_notice_of_the_run(
    photo: Path,
    tmp_path: Path,
    tiny_weights: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sr_core.backbones.latent.LEAST_SIDE", 4)
    forward = StableDiffusion.forward

    def limited(self: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        if max(x.shape[-2:]) > 10:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, x, *rest)

    monkeypatch.setattr(StableDiffusion, "forward", limited)
    run = finished(photo, tmp_path / "run", Job(**{**LARGE, "tile": 64}))
    assert [word for word in run.values["notices"] if "memory ran out" in word]
    assert all(record.file is not None for record in run.candidates)


@pytest.mark.parametrize(
    ("first", "then", "loads"),
    [
        ({}, {}, 1),
        ({"adapter": "hpo", "compare_adapter": "sft"}, {"adapter": "sft", "compare_adapter": "hpo"}, 2),
        ({}, {"adapter": "hpo"}, 2),
        ({"compare_adapter": "hpo"}, {}, 3),
        ({}, {"dtype": "bfloat16"}, 2),
        ({}, {"weights": LoadOptions(offload="model")}, 2),
    ],
)
def test_a_large_backbone_leaves_before_it_is_loaded_otherwise(
    photo: Path,
    tmp_path: Path,
    tiny_weights: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, Any],
    then: dict[str, Any],
    loads: int,
) -> None:
    loaded: list[dict[str, Any]] = []

    def counted(*_: object, **how: Any) -> Callable[[torch.dtype], Backbone]:
        loaded.append(how)
        return lambda dtype: pytest.fail(f"nothing is drawn here, in {dtype} either")

    monkeypatch.setattr(pipeline, "load_backbone", counted)
    monkeypatch.setattr(Restorer, "restore", lambda *_, **__: iter(()))
    monkeypatch.setattr(pipeline, "_in_memory", [])
    for index, changes in enumerate((first, then)):
        finished(photo, tmp_path / str(index), Job(**{**LARGE, **changes}))
    assert len(loaded) == loads
    assert restorer_for.cache_info().currsize == (2 if "compare_adapter" in then else 1)


def test_missing_weights_are_told_before_the_folder_is_made(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SR_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"sr weights c-sd2 --download"):
        next(upscale(photo, tmp_path / "run", Job(backbone="c-sd2")))
    assert not (tmp_path / "run").exists()


def test_the_prior_lies_beside_its_candidates(photo: Path, tmp_path: Path) -> None:
    job = Job(**TINY)
    run = finished(photo, tmp_path / "run", job)
    lq = read_image(photo).pixels
    prior = restorer_for("compact", "sft", "float32").prior(lq, job.request((40, 32)))
    with PIL.Image.open(run.folder / run.values["prior"]) as image:
        np.testing.assert_array_equal(np.asarray(image), to_uint8(prior))


def test_every_run_has_a_name_of_its_own(photo: Path, tmp_path: Path) -> None:
    ids = {finished(photo, tmp_path / name, Job(**TINY)).values["id"] for name in ("a", "b")}
    assert len(ids) == 2
    assert all(len(value) >= 20 for value in ids)


def test_a_reference_makes_the_reward_a_full_hybrid(photo: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference.png"
    write_image(reference, resize_clamped(read_image(photo).pixels, 128, 160), format="png")
    run = finished(photo, tmp_path / "run", Job(**TINY), reference=reference)
    assert run.values["reference"] is True
    assert {metric["half"] for metric in run.values["metrics"]} == {"reference", "no_reference"}
    assert (run.folder / "reference.png").read_bytes() == reference.read_bytes()
    with pytest.raises(InputError, match="must measure 160 x 128 px like the output, got 40 x 32"):
        next(upscale(photo, tmp_path / "other", Job(**TINY), reference=photo))
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install `hpo`, a LoRA that changes the head, and `nothing`, one at zero."""
    with installed(tmp_path_factory.mktemp("assets"), hpo=0.1, nothing=0.0):
        yield


def pixels_at(run: Run, file: str | None) -> torch.Tensor:
    assert file is not None
    return read_image(run.folder / file).pixels


def marked_adapter(run: Run, file: str | None) -> object:
    assert file is not None
    marker = read_marker(run.folder / file)
    assert marker is not None
    assert marker.recipe is not None
    return marker.recipe["adapter"]


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_the_same_seed_before_training_is_what_a_job_of_sft_alone_draws(
    photo: Path, tmp_path: Path, format: str
) -> None:
    run = finished(photo, tmp_path / "run", Job(**TINY, seed=5, adapter="hpo", compare_adapter="sft", format=format))
    plain = finished(photo, tmp_path / "plain", Job(**TINY, seed=5))
    assert [record.before for record in run.candidates] == ["bird_seed5_sft.png", "bird_seed6_sft.png"]
    assert Run.open(run.folder) == run
    assert (run.values["adapter"], run.values["compare_adapter"]) == ("hpo", "sft")
    for ours, theirs in zip(run.candidates, plain.candidates, strict=True):
        assert torch.equal(pixels_at(run, ours.before), pixels_at(plain, theirs.file))
        assert float((pixels_at(run, ours.before) - pixels_at(run, ours.file)).abs().max()) > 0.02
        assert (marked_adapter(run, ours.before), marked_adapter(run, ours.file)) == ("sft", "hpo")
        assert ours.scores.keys() == theirs.scores.keys()


@pytest.mark.usefixtures("adapters")
def test_an_adapter_at_zero_gives_the_same_seed_bit_for_bit(photo: Path, tmp_path: Path) -> None:
    run = finished(photo, tmp_path / "run", Job(**TINY, adapter="nothing", compare_adapter="sft"))
    for record in run.candidates:
        assert torch.equal(pixels_at(run, record.before), pixels_at(run, record.file))


@pytest.mark.usefixtures("adapters")
def test_a_comparison_changes_neither_the_candidates_nor_their_ranking(photo: Path, tmp_path: Path) -> None:
    compared = finished(photo, tmp_path / "compared", Job(**TINY, adapter="hpo", compare_adapter="nothing"))
    alone = finished(photo, tmp_path / "alone", Job(**TINY, adapter="hpo"))
    assert [replace(record, before=None, before_scores={}) for record in compared.candidates] == list(alone.candidates)
    for record in alone.candidates:
        assert torch.equal(pixels_at(compared, record.file), pixels_at(alone, record.file))
    assert sorted(p.name for p in alone.folder.iterdir()) == [
        "bird_seed0.png", "bird_seed1.png", "input.png", "prior.png", "run.json",
    ]  # fmt: skip
    assert alone.values["compare_adapter"] is None


@pytest.mark.usefixtures("adapters")
def test_both_sides_of_a_comparison_are_scored_alike(photo: Path, tmp_path: Path) -> None:
    run = finished(photo, tmp_path / "run", Job(**TINY, adapter="hpo", compare_adapter="nothing"))
    files = [run.folder / str(record.before) for record in run.candidates]
    scored = score_files(files, lq=photo, metric_set="offline")["images"]
    assert [dict(record.before_scores) for record in run.candidates] == [row["scores"] for row in scored]


def test_scores_taken_on_other_crops_are_not_compared() -> None:
    ours = [{"key": "niqe", "crops": [[0, 0, 9, 9]]}, {"key": "piqe", "crops": [[0, 0, 9, 9], [9, 0, 9, 9]]}]
    theirs = [{"key": "niqe", "crops": [[0, 0, 9, 9]]}, {"key": "piqe", "crops": [[9, 0, 9, 9]]}]
    assert pipeline._scored_alike(ours, theirs) == {"niqe"}
    assert pipeline._scored_alike(ours, []) == set()
    assert pipeline._scored_alike(ours, ours) == {"niqe", "piqe"}


def test_a_comparison_that_failed_is_said_and_costs_no_candidate(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorers = {
        "hpo": Restorer(Fakes(), torch.float32),
        "sft": Restorer(Fakes(lambda dtype, k: "nan"), torch.float32),  # noqa: ARG005
    }
    monkeypatch.setattr(pipeline, "restorer_for", lambda backbone, adapter, dtype: restorers[adapter])  # noqa: ARG005
    run = finished(photo, tmp_path / "run", Job(**TINY, adapter="hpo", compare_adapter="sft"))
    assert [(r.before, r.file is not None) for r in run.candidates] == [(None, True), (None, True)]
    assert [n for n in run.values["notices"] if n.startswith("seed 1: SFT gave nothing to compare with")]


def test_a_job_is_compared_with_another_adapter_than_its_own() -> None:
    with pytest.raises(ConfigError, match="must be another one than sft"):
        Job(compare_adapter="sft")


def test_an_existing_run_is_never_written_over(photo: Path, tmp_path: Path) -> None:
    finished(photo, tmp_path / "run", Job(**{**TINY, "num_candidates": 1}))
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match="already holds a run"):
        next(upscale(photo, tmp_path / "run", Job(**TINY)))
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("finish", [0, 1])
def test_a_stopped_run_keeps_and_scores_what_is_finished(photo: Path, tmp_path: Path, finish: int) -> None:
    drawn: list[Progress] = []
    stream = upscale(photo, tmp_path / "run", Job(**{**TINY, "num_candidates": 3}), stop=lambda: len(drawn) >= finish)
    drawn.extend(p for p in stream if not drawn.append(p))  # type: ignore[func-returns-value]
    run = Run.open(tmp_path / "run")
    assert drawn[-1].stage == run.values["status"] == "stopped"
    assert len(run.candidates) == finish
    assert all(record.scores and record.rank is None for record in run.candidates)


def test_failed_candidates_are_recorded_and_never_ranked(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = Restorer(Fakes(lambda dtype, k: "nan" if k == 1 else None), torch.float32)  # noqa: ARG005
    monkeypatch.setattr(pipeline, "restorer_for", lambda *_: restorer)
    run = finished(photo, tmp_path / "run", Job(**{**TINY, "num_candidates": 3}))
    failed = run.candidates[1]
    assert (failed.file, failed.rank, failed.reward, dict(failed.scores)) == (None, None, None, {})
    assert failed.problem is not None
    assert [r.rank for r in run.candidates if r.file] == [1, 1]
    assert Run.open(run.folder) == run


def test_every_format_holds_a_candidate_of_the_asked_size(photo: Path, tmp_path: Path) -> None:
    for name, suffix in (("png", ".png"), ("webp", ".webp"), ("jpeg", ".jpg"), ("tiff", ".tif")):
        job = Job(**{**TINY, "num_candidates": 1}, format=name, size=(100, 80))
        run = finished(photo, tmp_path / name, job)
        path = run.path(run.candidates[0])
        assert path.name == f"bird_seed0{suffix}"
        assert (read_image(path).width, read_image(path).height) == (100, 80)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_candidates": 17}, ConfigError, "1 to 16"),
        ({"num_steps": 0}, ConfigError, "1 to 100"),
        ({"scale": 9.0}, InputError, "between 1 and 8"),
        ({"scale": float("nan")}, InputError, "between 1 and 8"),
        ({"metric_set": "ofline"}, ConfigError, "offline"),
        ({"fidelity_weight": 1.5}, ConfigError, "fidelity weight"),
        ({"fidelity_weight": float("nan")}, ConfigError, "fidelity weight"),
        ({"format": "gif"}, ConfigError, "png"),
        ({"format": "jpeg", "bit_depth": 16}, ConfigError, "16"),
        ({"color": "none"}, ConfigError, "off"),
        ({"sampler": "rk4"}, ConfigError, "euler"),
    ],
)
def test_an_impossible_job_is_refused_when_it_is_written(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Job(**settings)


@pytest.mark.parametrize("size", [(1920, 1080), (33, 40), (16_000, 9_000)])
def test_an_exact_size_is_held_against_the_photo_and_nothing_else(size: tuple[int, int]) -> None:
    job = Job(size=size)
    assert job.request((size[0] // 2 + 1, size[1] // 2 + 1)).size == size
    with pytest.raises(InputError, match="must lie between"):
        job.request((size[0] + 1, size[1]))


@pytest.mark.parametrize("unknown", [{"backbone": "compat"}, {"adapter": "sftt"}, {"compare_adapter": "sftt"}])
def test_an_unknown_model_is_refused_before_the_folder_is_made(
    photo: Path, tmp_path: Path, unknown: dict[str, str]
) -> None:
    job = Job(**TINY, **unknown)
    with pytest.raises(ConfigError, match="did you mean"):
        next(upscale(photo, tmp_path / "run", job))
    assert not (tmp_path / "run").exists()
