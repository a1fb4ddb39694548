import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from typer.testing import CliRunner

from sr_core.backbones.lora_files import LoraSet, read_lora, write_lora
from sr_core.cli import app, main, parse_size, reference_for, run_folders
from sr_core.errors import ConfigError, InputError
from sr_core.images import read_image, read_size, write_image
from sr_core.job import Job
from sr_core.resampling import resize_clamped
from sr_core.runs import Run
from tests.explorer_run import photo_pixels, write_run
from tests.lora import installed

ROOT = Path(__file__).parents[2]
SR = [sys.executable, "-c", "from sr_core.cli import main; main()"]
ISSUE_CANDIDATE_KEYS = {"seed", "rank", "reward", "scores", "file"}
ISSUE_TOP_KEYS = {
    "candidates", "input", "backbone", "adapter", "dtype", "steps", "metric_set", "reference", "metrics", "version",
}  # fmt: skip
TINY = ("--num-candidates", "2", "--steps", "1")


def sr(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SR, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_setting_of_a_large_backbone_reaches_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr("sr_core.cli._upscale_one", lambda photo, folder, job, reference: jobs.append(job))  # noqa: ARG005
    flags = {
        "--backbone": "c-sd2", "--steps": "7", "--sampler": "heun", "--guidance": "2.5", "--prompt": "a bird",
        "--negative-prompt": "blur", "--start": "lq", "--strength": "0.5", "--tile": "96", "--base": "b",
        "--controlnet": "c", "--lora": "l", "--offload": "model", "--quantize": "4bit",
    }  # fmt: skip
    given = [word for pair in flags.items() for word in pair]
    answer = CliRunner().invoke(app, ["upscale", str(tmp_path / "a.png"), "--out", str(tmp_path), *given])
    assert answer.exit_code == 0, answer.output
    (job,) = jobs
    assert (job.backbone, job.num_steps, job.sampler, job.guidance) == ("c-sd2", 7, "heun", 2.5)
    assert (job.prompt, job.negative_prompt, job.start, job.strength, job.tile) == ("a bird", "blur", "lq", 0.5, 96)
    assert dict(job.weights.parts) == {"base": "b", "controlnet": "c", "lora": "l"}
    assert (job.weights.offload, job.weights.quantize) == ("model", "4bit")


@pytest.fixture(scope="module")
def photo(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "bird.png"
    write_image(path, read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:232, 180:220], format="png")
    return path


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_several_photos_give_a_ranked_run_each_and_one_bad_photo_spoils_none(photo: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad.jpg"
    good.mkdir()
    shutil.copyfile(photo, good / "bird.png")
    bad.write_bytes(b"no photo")
    reference = tmp_path / "references"
    reference.mkdir()
    for name in ("bird.png", "bad.png"):
        write_image(reference / name, resize_clamped(read_image(photo).pixels, 96, 120), format="png")
    done = sr(
        "upscale", good / "bird.png", bad, tmp_path / "absent.png", "--out", tmp_path / "out",
        *TINY, "--seed", "7", "--size", "120x96", "--reference", reference,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(errors_of(done)) == 2
    assert all(any(name in line for line in errors_of(done)) for name in ("bad.jpg", "absent.png"))
    content = json.loads((tmp_path / "out" / "bird" / "run.json").read_text(encoding="utf-8"))
    assert content.keys() >= ISSUE_TOP_KEYS
    assert content["reference"] is True
    assert content["dtype"] in ("float32", "bfloat16")
    assert [candidate["seed"] for candidate in content["candidates"]] == [7, 8]
    for candidate in content["candidates"]:
        assert candidate.keys() >= ISSUE_CANDIDATE_KEYS
        assert read_size(tmp_path / "out" / "bird" / candidate["file"]) == (120, 96)
        assert 0 <= candidate["reward"] <= 1
        assert candidate["rank"] in (1, 2)
        assert candidate["scores"]
        assert f"seed {candidate['seed']}" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bird"]


def test_an_existing_run_is_refused_and_kept(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "run.json").write_text("{}", encoding="utf-8")
    done = sr("upscale", photo, "--out", tmp_path, *TINY)
    assert done.returncode == 2
    (line,) = errors_of(done)
    assert "already holds a run" in line
    assert [p.name for p in (tmp_path / "bird").iterdir()] == ["run.json"]


def test_an_adapter_is_compared_with_the_same_seeds_of_another(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sr", "upscale", str(photo), "--out", str(tmp_path / "out"), *TINY]
    monkeypatch.setattr(sys, "argv", [*command, "--adapter", "hpo", "--compare-with", "sft"])
    with installed(tmp_path / "assets", hpo=0.1), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    run = Run.open(tmp_path / "out" / "bird")
    for record in run.candidates:
        assert record.before == f"bird_seed{record.seed}_sft.png"
        assert (run.folder / record.before).is_file()
        assert sum(line.endswith(f"{record.file}  SFT: {record.before}") for line in lines) == 1


def test_scores_are_printed_as_json_and_one_image_has_no_reward(photos: Path, tmp_path: Path) -> None:
    photo, soft = tmp_path / "sharp.png", tmp_path / "soft.png"
    pixels = read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:272, 180:260]
    write_image(photo, pixels, format="png")
    write_image(soft, resize_clamped(resize_clamped(pixels, 18, 20), 72, 80), format="png")
    done = sr("score", photo, soft, "--reference", photo, "--metrics", "offline", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"metric_set", "reference", "metrics", "images"} <= result.keys()
    assert result["reference"] is True
    assert [image["file"] for image in result["images"]] == [str(photo), str(soft)]
    assert result["images"][0]["reward"] > result["images"][1]["reward"]
    target = tmp_path / "scores.json"
    done = sr("score", photo, "--json", target)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    (image,) = json.loads(target.read_text(encoding="utf-8"))["images"]
    assert image["reward"] is None
    assert image["scores"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("upscale", "PHOTO", "--out", "OUT", "--size", "big"), "1920x1080"),
        (("upscale", "PHOTO", "--out", "OUT", "--scale", "9"), "between 1 and 8"),
        (("upscale", "PHOTO", "--out", "OUT", "--num-candidates", "17"), "1 to 16"),
        (("upscale", "PHOTO", "--out", "OUT", "--metrics", "ofline"), "offline"),
        (("upscale", "PHOTO", "--out", "OUT", "--steps", "four"), "--steps"),
        (("upscale", "PHOTO", "--out", "OUT", "--adapter", "sftt"), "sft"),
        (("upscale", "PHOTO", "--out", "OUT", "--compare-with", "hpoo"), "unknown adapter 'hpoo'"),
        (("upscale", "PHOTO", "--out", "OUT", "--compare-with", "sft"), "another one than sft"),
        (("upscale", "PHOTO", "--out", "OUT", "--reference", "OUT"), "reference"),
        (("upscale", "PHOTO", "--out", "PHOTO"), "bird"),
        (("upscale", "PHOTO"), "--out"),
        (("upsacle",), "upsacle"),
        (("score", "ABSENT"), "absent"),
        (("score", "PHOTO", "--json", "PHOTO/x.json"), "x.json"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_ends_with_2_and_one_clear_line(
    photo: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {"PHOTO": str(photo), "OUT": str(tmp_path / "out"), "ABSENT": str(tmp_path / "absent.png")}
    filled = [places.get(text, text.replace("PHOTO", str(photo))) for text in arguments]
    monkeypatch.setattr(sys, "argv", ["sr", *filled])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert word in line
    assert not (tmp_path / "out").exists()


def test_the_version_is_printed() -> None:
    done = sr("version")
    assert (done.returncode, done.stdout) == (0, "0.1.0\n")


@pytest.mark.parametrize(("text", "size"), [("1920x1080", (1920, 1080)), ("32X64", (32, 64)), (None, None)])
def test_a_size_is_width_by_height(text: str | None, size: tuple[int, int] | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "12", "12x", "x12", "12x-3", "1.5x2", "axb", "1x2x3"])
def test_another_text_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="must look like 1920x1080"):
        parse_size(text)


def test_a_reference_is_a_file_or_the_same_name_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "b.png", "c.tif"):
        (tmp_path / name).touch()
    assert reference_for(Path("x/a.jpg"), None) is None
    assert reference_for(Path("x/zzz.jpg"), tmp_path / "a.png") == tmp_path / "a.png"
    assert reference_for(Path("x/b.jpg"), tmp_path) == tmp_path / "b.jpg"
    assert reference_for(Path("x/c.png"), tmp_path) == tmp_path / "c.tif"
    for photo, message in (("b.webp", "one image named b, found 2"), ("d.png", "one image named d, found 0")):
        with pytest.raises(InputError, match=message):
            reference_for(Path(photo), tmp_path)
    with pytest.raises(InputError, match="must be a file or a folder"):
        reference_for(Path("a.png"), tmp_path / "absent")


def test_every_photo_gets_a_folder_of_its_own_inside_out() -> None:
    names = ["a/x.png", "b/x.png", "x-2.png", "c/x.jpg", "...png", "y.png"]
    folders = [folder for _, folder in run_folders([Path(name) for name in names], Path("out"))]
    assert len(set(folders)) == len(names)
    assert {folder.parent for folder in folders} == {Path("out")}
    assert [folder.name for folder in folders] == ["x", "x-2", "x-2-2", "x-3", "photo", "y"]


def test_outputs_of_other_tools_join_a_run_from_files_folders_and_zips(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=128)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for name, side in (("sharp", 96), ("soft", 32), ("packed", 48)):
        pixels = resize_clamped(resize_clamped(photo_pixels(128), side, side), 128, 128)
        write_image(outputs / f"{name}.png", pixels, format="png")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(outputs / "packed.png", "tool/packed.png")
    (outputs / "packed.png").unlink()
    torch.manual_seed(0)
    save_file(
        Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=2).state_dict(),
        tmp_path / "tiny.safetensors",
    )
    done = sr("join", run.folder, outputs, tmp_path / "more.zip", "--model", tmp_path / "tiny.safetensors")
    assert done.returncode == 0, done.stderr
    joined = Run.open(run.folder)
    assert [r.source for r in joined.candidates] == [None, None, "sharp", "soft", "packed", "tiny"]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("rank")]
    assert [(int(words[1]), words[-1]) for words in lines] == [(record.rank, record.file) for record in joined.ranked]
    again = sr("join", run.folder, outputs / "soft.png")
    assert "soft has the same pixels as soft and was not joined again" in again.stderr
    for arguments, words in (((), "must be an image"), ((tmp_path / "tiny.safetensors",), "tiny.safetensors must be")):
        refused = sr("join", run.folder, *arguments)
        assert refused.returncode == 2
        assert words in errors_of(refused)[0]
    assert Run.open(run.folder) == joined


def test_loras_are_merged_into_one_file_without_a_base(tmp_path: Path) -> None:
    parts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        lora = LoraSet({"a": torch.randn(2, 5)}, {"a": torch.randn(7, 2)}, {"a": 3.0})
        parts.append(write_lora(tmp_path / f"part{seed}", lora, component="transformer"))
    out = tmp_path / "out" / "lora.safetensors"
    words = ["merge-loras", str(out), *map(str, parts), "--weight", "1", "--weight", "0.5"]
    assert CliRunner().invoke(app, words).exit_code == 0
    lone = CliRunner().invoke(app, words[:-2])
    assert isinstance(lone.exception, ConfigError)
    one, other = (read_lora(path, component="transformer") for path in parts)
    total = read_lora(out, component="transformer")
    wanted = one.scale("a") * one.up["a"] @ one.down["a"] + 0.5 * other.scale("a") * other.up["a"] @ other.down["a"]
    torch.testing.assert_close(total.scale("a") * total.up["a"] @ total.down["a"], wanted)
