import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

from sr_core import joining
from sr_core.archives import MAX_MEMBERS, read_archive, write_archive
from sr_core.audit import distances_to
from sr_core.errors import InputError, WeightsError
from sr_core.images import from_uint8, read_image, read_marker, read_output, write_image
from sr_core.joining import Member, join_baseline, join_images, part
from sr_core.pipeline import scorer_for
from sr_core.resampling import resize_clamped
from sr_core.rewards import GroupScorer
from sr_core.rewards.registry import MetricSet
from sr_core.runs import Run
from sr_core.scoring import local_pixels, score_files
from tests.explorer_run import photo_pixels, varied, write_run
from tests.sr_core.photo_files import random_alpha

SIDE = 128


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    """Return what three other tools made of the photo."""
    folder = tmp_path_factory.mktemp("outputs")
    hq, random = photo_pixels(SIDE), torch.Generator().manual_seed(7)
    made = {
        "bicubic": resize_clamped(resize_clamped(hq, SIDE // 4, SIDE // 4), SIDE, SIDE),
        "sharp": varied(hq, 0.01, random),
        "noisy": varied(hq, 0.2, random),
    }
    for name, pixels in made.items():
        write_image(folder / f"{name}.png", pixels, format="png", marked=name != "bicubic")
    return [Member(folder / f"{name}.png", name) for name in made]


def really_scored(folder: Path, *, reference: bool) -> Run:
    """Return a run with the scores that its files really have."""
    made = write_run(folder, num_candidates=3, size=SIDE, reference=reference, before=True)
    extra = folder.parent / "extra.png"
    write_image(extra, photo_pixels(SIDE), format="png")
    return part(join_images(made, [Member(extra, "extra")]).run, 3)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return really_scored(tmp_path_factory.mktemp("run") / "run", reference=False)


@pytest.fixture(scope="module")
def referenced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return really_scored(tmp_path_factory.mktemp("run") / "run", reference=True)


def copied(run: Run, folder: Path) -> Run:
    shutil.copytree(run.folder, folder)
    return Run.open(folder)


def by_name(run: Run) -> dict[str, tuple[int | None, float | None]]:
    return {record.name: (record.rank, record.reward) for record in run.candidates}


@pytest.mark.parametrize("kind", ["scored", "referenced"])
def test_joined_files_have_exactly_the_scores_that_sr_score_gives_them(
    kind: str, outputs: list[Member], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made: Run = request.getfixturevalue(kind)
    joined = join_images(copied(made, tmp_path / "run"), outputs)
    reference = made.folder / "reference.png" if made.values["reference"] else None
    lq = made.folder / "input.png"
    alone = score_files([m.path for m in outputs], reference=reference, lq=lq, read=local_pixels)
    new = [record for record in joined.run.candidates if record.source is not None]
    assert [record.source for record in new] == ["bicubic", "sharp", "noisy"]
    for record, row in zip(new, alone["images"], strict=True):
        assert dict(record.scores) == row["scores"]
    files = [joined.run.path(record) for record in joined.run.candidates]
    together = score_files(files, reference=reference, lq=lq, read=local_pixels)
    for record, row in zip(joined.run.candidates, together["images"], strict=True):
        assert dict(record.scores) == pytest.approx(row["scores"], rel=1e-6, abs=1e-7)
        assert (record.rank, record.reward) == (row["rank"], pytest.approx(row["reward"], abs=1e-6))


def test_those_who_were_there_keep_their_scores_and_the_group_ranks_anew(
    scored: Run, outputs: list[Member], tmp_path: Path
) -> None:
    run = copied(scored, tmp_path / "run")
    joined = join_images(run, outputs)
    assert joined.indices == tuple(record.index for record in joined.run.candidates[3:])
    for before, after in zip(run.candidates, joined.run.candidates, strict=False):
        assert replace(after, rank=before.rank, reward=before.reward) == before
    assert sorted(record.rank or 0 for record in joined.run.candidates)[0] == 1
    assert joined.run.best is not None
    assert joined.run == Run.open(run.folder)
    assert [(e["label"], e["origin"], e["kind"]) for e in joined.run.values["joined"]] == [
        (name, f"{name}.png", "image") for name in ("bicubic", "sharp", "noisy")
    ]
    unranked = [record for record in joined.run.candidates if record.rank is None]
    assert unranked == []


def test_the_order_of_joining_does_not_change_ranks(scored: Run, outputs: list[Member], tmp_path: Path) -> None:
    answers = []
    for number, order in enumerate([outputs, outputs[::-1], outputs[1:] + outputs[:1]]):
        run = copied(scored, tmp_path / str(number))
        for member in order:
            run = join_images(run, [member]).run
        answers.append(by_name(run))
    for answer in answers[1:]:
        assert {name: rank for name, (rank, _) in answer.items()} == {
            name: rank for name, (rank, _) in answers[0].items()
        }
        for name, (_, reward) in answer.items():
            assert reward == pytest.approx(answers[0][name][1], abs=1e-6)


def test_taking_all_out_again_gives_the_run_as_it_was(scored: Run, outputs: list[Member], tmp_path: Path) -> None:
    run = copied(scored, tmp_path / "run")
    files = {path.name for path in run.folder.iterdir()}
    joined = join_images(run, outputs)
    left = joined.run
    for index in joined.indices:
        left = part(left, index)
    assert left.candidates == run.candidates
    assert left.values["metrics"] == run.values["metrics"]
    assert left.values["left_out"] == run.values["left_out"]
    assert {path.name for path in run.folder.iterdir()} == files
    again = join_images(left, outputs[:1])
    assert again.indices[0] > max(joined.indices)
    with pytest.raises(InputError, match="only a candidate that joined"):
        part(left, 0)


def wide(structured: tuple[bool, ...], seed: int) -> np.ndarray:
    """Return noise above 1024 px a side, which is scored in three crops; some of them are flat."""
    pixels = np.random.default_rng(seed).integers(60, 200, (192, 1536, 3), dtype=np.uint8)
    for place, has_structure in enumerate(structured):
        if not has_structure:
            pixels[:, 512 * place : 512 * (place + 1)] = 90
    return pixels


@pytest.mark.parametrize("drawn", [((True,) * 3, (True,) * 3), ((True, True, False), (True,) * 3)])
def test_crops_of_a_newcomer_change_nothing_for_those_who_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: tuple[tuple[bool, ...], ...]
) -> None:
    cheap = GroupScorer(MetricSet(full_reference=(), no_reference=("niqe",), consistency=("psnr",)))
    monkeypatch.setattr(joining, "scorer_for", lambda _: cheap)
    made = write_run(tmp_path / "run", num_candidates=2, size=128)
    run = replace(made, values={**made.values, "size": [1536, 192]})
    for record, structured in zip(run.candidates, drawn, strict=True):
        PillowImage.fromarray(wide(structured, record.index)).save(run.path(record))
    PillowImage.fromarray(wide((True,) * 3, 9)).resize((512, 64)).save(run.folder / "input.png")
    members = {
        "sound": (True, True, True),
        "flat": (False,) * 3,
        "gap": (False, True, True),
        "other": (True, True, False),
    }
    for number, (name, structured) in enumerate(members.items()):
        PillowImage.fromarray(wide(structured, 20 + number)).save(tmp_path / f"{name}.png")
    first = join_images(run, [Member(tmp_path / "sound.png", "sound")])
    before = part(first.run, first.indices[0])
    (niqe,) = (metric for metric in before.values["metrics"] if metric["key"] == "niqe")
    assert [crop[1] for crop in niqe["crops"]] == [0, 512, 1024][: min(map(sum, drawn))]
    together = join_images(before, [Member(tmp_path / f"{name}.png", name) for name in members])
    assert together.run.values["metrics"] == before.values["metrics"]
    found = {record.name: record.scores for record in together.run.candidates}
    assert {name for name in members if "niqe" not in found[name]} == {
        name for name, structured in members.items() if not all(structured[: len(niqe["crops"])])
    }
    assert "niqe" in {entry["name"] for entry in together.run.values["left_out"]}
    left = together.run
    for index in together.indices:
        left = part(left, index)
    assert left.candidates == before.candidates
    for name in ("metrics", "left_out"):
        assert left.values[name] == before.values[name]
    alone = join_images(before, [Member(tmp_path / "sound.png", "sound")]).run.candidates[-1]
    assert dict(found["sound"]) == pytest.approx(dict(alone.scores), rel=1e-6)


def test_the_same_pixels_do_not_join_twice_and_this_is_said(scored: Run, outputs: list[Member], tmp_path: Path) -> None:
    run = copied(scored, tmp_path / "run")
    own = Member(run.path(run.candidates[1]), "mine")
    first = join_images(run, [outputs[0], Member(outputs[0].path, "again"), own])
    assert len(first.indices) == 1
    assert first.notes[:2] == (
        "again has the same pixels as bicubic and was not joined again",
        "mine has the same pixels as seed 1 and was not joined again",
    )
    second = join_images(first.run, [outputs[0]])
    assert second.run == first.run
    assert second.indices == ()


def test_equal_labels_are_told_apart(scored: Run, outputs: list[Member], tmp_path: Path) -> None:
    run = copied(scored, tmp_path / "run")
    joined = join_images(run, [Member(m.path, "seed 1") for m in outputs])
    assert [r.name for r in joined.run.candidates[3:]] == ["seed 1 (2)", "seed 1 (3)", "seed 1 (4)"]
    odd = join_images(copied(scored, tmp_path / "odd"), [Member(outputs[0].path, "\n../<b>\u202e" + 99 * "x")])
    record = odd.run.candidates[-1]
    assert record.source is not None
    assert record.source.isprintable()
    assert odd.run.path(record).parent == odd.run.folder
    assert Run.open(odd.run.folder).candidates[-1] == record


def test_a_size_that_differs_is_refused_by_name_and_nothing_joins(
    scored: Run, outputs: list[Member], tmp_path: Path
) -> None:
    run = copied(scored, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    for side in (64, 96):
        write_image(tmp_path / f"of{side}.png", photo_pixels(side), format="png")
    members = [outputs[0], *(Member(tmp_path / f"of{side}.png", "x") for side in (64, 96))]
    with pytest.raises(
        InputError, match=r"must measure 128 x 128 px .* got of64\.png 64 x 64; of96\.png 96 x 96; none"
    ):
        join_images(run, members)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_failure_on_the_way_leaves_the_run_as_it_was(
    scored: Run, outputs: list[Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(scored, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise InputError("no metric today")

    monkeypatch.setattr(scorer_for("offline"), "score_like", fail)
    with pytest.raises(InputError, match="no metric today"):
        join_images(run, outputs)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_what_joins_an_audit_has_the_distances_that_the_audit_keeps_of_its_own(
    referenced: Run, outputs: list[Member], tmp_path: Path
) -> None:
    run = copied(referenced, tmp_path / "run")
    assert all("distances" not in entry for entry in join_images(run, outputs[:1]).run.values["joined"])
    audited = replace(run, values={**run.values, "audit": {"distances": {"candidates": [], "before": []}}})
    joined = join_images(audited, outputs).run
    target = from_uint8(local_pixels(run.folder / "reference.png"))
    records = [record for record in joined.candidates if record.source is not None]
    assert [entry["distances"] for entry in joined.values["joined"]] == [
        distances_to(target, joined.path(record)) for record in records
    ]
    assert len(records) == 3


def test_too_many_or_an_unfinished_run_are_refused(scored: Run, outputs: list[Member]) -> None:
    with pytest.raises(InputError, match=f"at most {MAX_MEMBERS} candidates, so 1 to 45 may join, got 46"):
        join_images(scored, outputs[:1] * 46)
    drawing = replace(scored, values={**scored.values, "status": "drawing"})
    with pytest.raises(InputError, match="finished before others join"):
        join_images(drawing, outputs)


def test_depth_and_transparency_are_kept_and_only_a_marked_file_stays_marked(
    scored: Run, outputs: list[Member], tmp_path: Path
) -> None:
    deep, clear = tmp_path / "deep.png", tmp_path / "clear.png"
    write_image(deep, varied(photo_pixels(SIDE), 0.05, torch.Generator().manual_seed(1)), format="png", bit_depth=16)
    alpha = random_alpha(SIDE, SIDE)
    hidden = np.where(alpha[..., None] == 0, 0, read_output(outputs[1].path).pixels).astype(np.uint8)
    PillowImage.fromarray(np.dstack([hidden, alpha])).save(clear)
    members = [Member(deep, "deep"), Member(clear, "clear"), *outputs[:2]]
    joined = join_images(copied(scored, tmp_path / "run"), members)
    stored = {r.name: joined.run.path(r) for r in joined.run.candidates if r.source is not None}
    np.testing.assert_array_equal(read_output(stored["deep"]).pixels, read_output(deep).pixels)
    assert read_output(stored["deep"]).pixels.dtype == np.uint16
    kept = read_output(stored["clear"])
    assert kept.alpha is not None
    np.testing.assert_array_equal(kept.alpha, alpha)
    np.testing.assert_array_equal(kept.pixels[alpha == 255], hidden[alpha == 255])
    assert kept.pixels[alpha == 0].mean() > 0
    np.testing.assert_array_equal(read_output(stored["bicubic"]).pixels, read_output(outputs[0].path).pixels)
    assert read_marker(stored["bicubic"]) is None
    assert read_marker(stored["sharp"]) is not None


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "BMP"])
def test_other_formats_join_as_they_decode(scored: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    PillowImage.fromarray(local_pixels(scored.path(scored.candidates[0])) // 2).save(path, kind)
    joined = join_images(copied(scored, tmp_path / "run"), [Member(path, "x")])
    np.testing.assert_array_equal(local_pixels(joined.run.path(joined.run.candidates[-1])), local_pixels(path))


def test_a_member_that_a_metric_cannot_score_leaves_that_metric_out_for_all(
    scored: Run, outputs: list[Member], tmp_path: Path
) -> None:
    PillowImage.new("RGB", (SIDE, SIDE), (90, 90, 90)).save(tmp_path / "flat.png")
    run = copied(scored, tmp_path / "run")
    joined = join_images(run, [outputs[0], Member(tmp_path / "flat.png", "flat")])
    flat = joined.run.candidates[-1]
    lacking = {m["key"] for m in run.values["metrics"]} - flat.scores.keys()
    assert lacking
    assert {entry["name"] for entry in joined.run.values["left_out"]} >= lacking
    assert any("gives no value for flat" in note for note in joined.notes)
    assert all(record.scores == old.scores for record, old in zip(joined.run.candidates, run.candidates, strict=False))
    files = [joined.run.path(record) for record in joined.run.candidates]
    together = score_files(files, lq=scored.folder / "input.png", read=local_pixels)
    assert [r.rank for r in joined.run.candidates] == [row["rank"] for row in together["images"]]
    without = part(joined.run, flat.index)
    assert without.values["left_out"] == run.values["left_out"]
    other = by_name(join_images(copied(scored, tmp_path / "other"), [outputs[0]]).run)
    for name, (rank, reward) in by_name(without).items():
        assert (rank, reward) == (other[name][0], pytest.approx(other[name][1], abs=1e-6))


def test_scores_of_unknown_origin_are_taken_again(tmp_path: Path, outputs: list[Member]) -> None:
    made = write_run(tmp_path / "made", num_candidates=2, size=SIDE, before=True)
    joined = join_images(made, outputs[:1])
    files = [joined.run.path(record) for record in joined.run.candidates]
    rows = score_files(files, lq=made.folder / "input.png", read=local_pixels)["images"]
    for record, row in zip(joined.run.candidates, rows, strict=True):
        assert dict(record.scores) == pytest.approx(row["scores"], rel=1e-6, abs=1e-7)
    assert {m["key"] for m in joined.run.values["metrics"]} == set(rows[0]["scores"])
    assert set(joined.run.candidates[0].before_scores) == set(rows[0]["scores"])


def test_a_run_with_members_travels_as_an_archive(scored: Run, outputs: list[Member], tmp_path: Path) -> None:
    joined = join_images(copied(scored, tmp_path / "run"), outputs).run
    imported = read_archive(write_archive(joined, tmp_path / "a"), tmp_path / "runs" / "a")
    assert imported.candidates == joined.candidates
    assert imported.values["joined"] == joined.values["joined"]


def test_a_single_candidate_becomes_a_group(tmp_path: Path, outputs: list[Member]) -> None:
    alone = write_run(tmp_path / "one", num_candidates=1, size=SIDE)
    joined = join_images(alone, outputs[:1])
    assert {record.rank for record in joined.run.candidates} <= {1, 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny network that enlarges by 2, with random weights."""
    torch.manual_seed(0)
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=2)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_a_weight_file_becomes_a_candidate_of_the_outputs_size(weights: Path, scored: Run, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    joined = join_baseline(
        copied(scored, tmp_path / "run"), weights, on_step=lambda done, total: steps.append((done, total))
    )
    record = joined.run.candidates[-1]
    assert (record.source, record.seed) == ("tiny", None)
    assert read_image(joined.run.path(record)).pixels.shape == (1, 3, SIDE, SIDE)
    entry = joined.run.values["joined"][-1]
    assert (entry["architecture"], entry["scale"], entry["origin"]) == ("RealESRGAN Compact", 2, "tiny.safetensors")
    marker = read_marker(joined.run.path(record))
    assert marker is not None
    assert marker.recipe is not None
    assert marker.recipe["sha256"] == entry["sha256"]
    (row,) = score_files([joined.run.path(record)], lq=scored.folder / "input.png", read=local_pixels)["images"]
    assert dict(record.scores) == row["scores"]
    assert join_baseline(joined.run, weights).indices == ()


def test_a_file_that_is_no_network_does_not_join(scored: Run, tmp_path: Path) -> None:
    run = copied(scored, tmp_path / "run")
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"weights\.safetensors must be a complete safetensors file"):
        join_baseline(run, tmp_path / "weights.safetensors")
    assert Run.open(run.folder) == run
