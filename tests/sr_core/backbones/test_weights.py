import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sr_core.backbones import BACKBONES, load_backbone, missing_words, weights
from sr_core.backbones.backbone import LoadOptions
from sr_core.backbones.weights import describe_parts, download_parts, find_part, locate
from sr_core.errors import ConfigError, WeightsError

ROOT = Path(__file__).parents[3]
SPEC = BACKBONES["c-sd2"]
BASE, CONTROLNET = SPEC.parts[:2]
CACHED_SNAPSHOT = weights._cached_snapshot


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no weights of this machine be found."""
    monkeypatch.setenv("SR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(weights, "_cached_snapshot", lambda part: None)  # noqa: ARG005


def put(folder: Path, file: str) -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(b"x")
    return folder


def test_a_given_path_wins_over_the_folder_of_weights_and_that_over_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = put(tmp_path / "cache", "unet/config.json")
    monkeypatch.setattr(weights, "_cached_snapshot", lambda part: cached)  # noqa: ARG005
    found = find_part("c-sd2", BASE)
    assert (found.path, found.origin) == (cached, "hub cache")
    folder = put(tmp_path / "weights" / "c-sd2" / "base", "unet/config.json")
    found = find_part("c-sd2", BASE)
    assert (found.path, found.origin) == (folder, "folder")
    given = put(tmp_path / "mine", "unet/config.json")
    found = find_part("c-sd2", BASE, given)
    assert (found.path, found.origin) == (given, "given")


@pytest.mark.parametrize(
    ("on_disk", "origin"),
    [(("unet/config.json", "model_index.json"), "hub cache"), (("unet/config.json",), "missing")],
)
def test_what_was_downloaded_by_a_parts_patterns_is_found_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: tuple[str, ...], origin: str
) -> None:
    monkeypatch.setattr(weights, "_cached_snapshot", CACHED_SNAPSHOT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "0" * 40
    kept = tmp_path / "hub" / f"models--{str(BASE.hub).replace('/', '--')}"
    put(kept, "refs/main").joinpath("refs/main").write_text(commit, encoding="ascii")
    for file in on_disk:
        put(kept / "snapshots" / commit, file)
    # The hub lists a file that is no part of what is downloaded.
    listed = ("unet/config.json", "model_index.json", "768-v-ema.ckpt")
    tree = {"format_version": 1, "files": {name: {"size": 1, "blob_id": "0" * 40} for name in listed}}
    put(kept / "trees", f"{commit}.json").joinpath(f"{commit}.json").write_text(json.dumps(tree), encoding="ascii")
    assert find_part("c-sd2", BASE).origin == origin


def test_a_folder_without_the_parts_files_is_not_the_part(tmp_path: Path) -> None:
    put(tmp_path / "weights" / "c-sd2" / "base", "readme.txt")
    assert find_part("c-sd2", BASE).origin == "missing"
    with pytest.raises(WeightsError, match=r"base of c-sd2 must be a file or a folder with unet/config.json"):
        find_part("c-sd2", BASE, tmp_path)


@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if spec.parts])
def test_missing_weights_are_told_with_source_size_licence_and_what_to_type(name: str) -> None:
    words = missing_words(name)
    assert words is not None
    spec = BACKBONES[name]
    for part in spec.parts:
        if part.optional and part.name not in spec.one_of:
            assert f"- {part.name}" not in words
            continue
        line = next(line for line in words.splitlines() if line.startswith(f"- {part.name}"))
        assert (part.hub or "no hub id") in line
        assert part.licence in line
        assert "GB" in line or "MB" in line
        assert f"weights/{name}/{part.name}" in line
        assert ("gated" in line) == part.gated
    assert f"sr weights {name} --download" in words
    with pytest.raises(WeightsError) as caught:
        load_backbone(name, dtype=torch.float32)
    assert str(caught.value) == words


def test_one_of_two_choices_is_enough(tmp_path: Path) -> None:
    root = tmp_path / "weights" / "sd15"
    put(root / "base", "unet/config.json")
    assert "one of these is enough" in str(missing_words("sd15"))
    put(root / "lora", "pytorch_lora_weights.safetensors")
    assert missing_words("sd15") is None
    assert locate("sd15", BACKBONES["sd15"], {}).keys() == {"base", "lora"}


def test_compact_needs_nothing_and_knows_no_part(tmp_path: Path) -> None:
    assert missing_words("compact") is None
    with pytest.raises(WeightsError, match="compact has no part base; its parts are: none"):
        load_backbone("compact", dtype=torch.float32, parts={"base": tmp_path})
    with pytest.raises(ConfigError, match="leave offload and quantize at none"):
        load_backbone("compact", dtype=torch.float32, options=LoadOptions(offload="model"))


@pytest.mark.parametrize("options", [{"offload": "disk"}, {"quantize": "2bit"}])
def test_an_unknown_way_to_save_memory_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="must be one of none"):
        LoadOptions(**options)


def test_the_table_says_where_each_part_was_found(tmp_path: Path) -> None:
    put(tmp_path / "weights" / "c-sd2" / "base", "unet/config.json")
    lines = describe_parts("c-sd2", SPEC).splitlines()
    assert f"folder: {tmp_path / 'weights' / 'c-sd2' / 'base'}" in lines[1]
    assert "missing" in lines[2]
    assert "complete" in describe_parts("compact", BACKBONES["compact"])


def test_what_the_hub_does_not_have_is_not_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "weights" / "c-sd2" / "base", "unet/config.json")
    (line,) = download_parts("c-sd2", SPEC)
    assert "not on the hub" in line
    assert "weights/c-sd2/controlnet" in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_cache_that_cannot_take_a_part_is_named_with_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError) as caught:
        list(download_parts("c-sd2", SPEC))
    words = str(caught.value)
    assert "cannot be reached" not in words
    assert all(word in words for word in ("5.2 GB", str(tmp_path / "hub"), "HF_HOME", os.strerror(number)))


def run_sr(*arguments: str, folder: Path, offline: bool) -> subprocess.CompletedProcess[str]:
    code = "import sys; from sr_core.cli import main; sys.argv[0] = 'sr'; main()"
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "SR_WEIGHTS": str(folder / "none"), "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        # A port where nobody listens stands for a machine without a network.
        "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_an_offline_machine_is_told_what_to_get_and_how(tmp_path: Path) -> None:
    listed = run_sr("weights", "c-sd2", folder=tmp_path, offline=True)
    assert listed.returncode == 0
    assert "stabilityai/stable-diffusion-2-base" in listed.stdout
    assert "put it at" in listed.stdout
    refused = run_sr("weights", "c-sd2", "--download", folder=tmp_path, offline=True)
    assert refused.returncode == 2
    assert "HF_HUB_OFFLINE is set" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_machine_without_a_network_is_told_so(tmp_path: Path) -> None:
    refused = run_sr("weights", "c-sd2", "--download", folder=tmp_path, offline=False)
    assert refused.returncode == 2
    assert "the hub cannot be reached to fetch stabilityai/stable-diffusion-2-base" in refused.stderr
    assert "Traceback" not in refused.stderr
