import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from sr_core.backbones.flow_head import unshuffle_planes
from sr_core.backbones.prior import load_prior
from sr_core.errors import ConfigError, InputError
from tests.train.conftest import PRESETS, SEED
from train.config import DataConfig
from train.data import CachedCrops, cached_crops, find_photos, head_batch, pack, seeded_generator


def config_for(crops: Path, cache: Path, **changes: object) -> DataConfig:
    return DataConfig(**{"crops": str(crops), "cache": str(cache), "presets": PRESETS, "window_px": 8, **changes})


def test_a_seeded_stream_depends_on_all_of_its_parts_alone() -> None:
    def draw(*parts: int | str) -> float:
        return float(torch.rand((), generator=seeded_generator(*parts)))

    assert draw(1, "batch", 2) == draw(1, "batch", 2)
    assert len({draw(1, "batch", 2), draw(1, "batch", 3), draw(2, "batch", 2), draw(1, "noise", 2)}) == 4


def test_photographs_are_found_below_folders_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/two.PNG", "a/one.jpg", "a/notes.txt", "c.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in find_photos([tmp_path])] == ["a/one.jpg", "b/two.PNG", "c.tiff"]


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no photograph"):
        find_photos([tmp_path])
    with pytest.raises(InputError, match="must lie in a folder"):
        find_photos([tmp_path / "absent"])


def test_packing_twice_gives_the_same_bytes(originals: Path, crops: Path, tmp_path: Path) -> None:
    pack(find_photos([originals]), tmp_path, crops_per_photo=1, seed=3)
    for name in ("crops.npy", "crops.json"):
        assert (tmp_path / name).read_bytes() == (crops / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["crops.json", "crops.npy"]
    pack(find_photos([originals]), tmp_path, crops_per_photo=1, seed=4)
    assert (tmp_path / "crops.npy").read_bytes() != (crops / "crops.npy").read_bytes()


def test_a_crop_is_cut_where_the_index_says(originals: Path, crops: Path) -> None:
    index = json.loads((crops / "crops.json").read_text(encoding="utf-8"))
    packed = np.load(crops / "crops.npy")
    assert packed.shape == (2, 256, 256, 3)
    assert index["skipped"] == []
    for crop, entry in zip(packed, index["crops"], strict=True):
        with PIL.Image.open(originals / entry["photo"]) as image:
            whole = np.array(image.convert("RGB"))
        row, column = entry["row"], entry["column"]
        assert np.array_equal(crop, whole[row : row + 256, column : column + 256])


def test_small_photographs_are_left_out_and_counted(tmp_path: Path, originals: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    PIL.Image.new("RGB", (300, 200)).save(source / "small.png")
    with pytest.raises(InputError, match="at least 256 px"):
        pack(find_photos([source]), tmp_path / "out", crops_per_photo=1, seed=0)
    assert pack(find_photos([source, originals]), tmp_path / "out", crops_per_photo=2, seed=0) == 4
    assert json.loads((tmp_path / "out" / "crops.json").read_text(encoding="utf-8"))["skipped"] == ["small.png"]


def test_the_cache_holds_what_the_prior_makes_of_the_degraded_crops(cache: Path, crops: Path) -> None:
    cached = CachedCrops(cache)
    hq, lq, prior, trunk = cached.window(1, 0, 0, 64)
    assert torch.equal(hq, torch.from_numpy(np.load(crops / "crops.npy")[1]).permute(2, 0, 1).float() / 255)
    with torch.inference_mode():
        output = load_prior()(lq[None])
    torch.testing.assert_close(prior, output.image[0].clamp(-0.5, 1.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(trunk, output.trunk[0], atol=1e-3, rtol=2**-7)
    reduced = torch.nn.functional.avg_pool2d(hq, 4)
    assert float((lq - reduced).abs().mean()) < 0.15


def test_a_window_shows_one_place_on_every_grid(cache: Path) -> None:
    cached = CachedCrops(cache)
    whole = cached.window(0, 0, 0, 64)
    for scale, full, part in zip((4, 1, 4, 1), whole, cached.window(0, 10, 20, 12), strict=True):
        rows, columns = slice(10 * scale, 22 * scale), slice(20 * scale, 32 * scale)
        assert torch.equal(part, full[:, rows, columns])


def test_random_windows_depend_on_the_generator_alone(cache: Path) -> None:
    cached = CachedCrops(cache)
    assert len(cached) == 2
    first, again, other = (cached.windows(5, 8, seeded_generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert [tuple(part.shape[1:]) for part in first] == [(3, 32, 32), (3, 8, 8), (3, 32, 32), (64, 8, 8)]
    with pytest.raises(ConfigError, match="at most 64, got 65"):
        cached.windows(1, 65, seeded_generator(1))


def test_a_batch_holds_the_planes_that_the_flow_is_defined_on(cache: Path) -> None:
    hq, lq, prior, trunk = CachedCrops(cache).windows(2, 8, seeded_generator(1))
    gain = torch.ones(2, 1, 8, 8)
    batch = head_batch(hq, lq, prior, trunk, gain)
    assert torch.equal(batch.hq, unshuffle_planes(hq))
    assert torch.equal(batch.photo.prior, unshuffle_planes(prior))
    assert torch.equal(batch.photo.trunk, trunk)
    assert torch.equal(batch.photo.lq, lq)
    assert torch.equal(batch.photo.gain, gain)


def test_a_filled_cache_is_read_and_not_made_again(cache: Path, crops: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in cache.iterdir()}
    cached_crops(config_for(crops, cache), seed=SEED, dtype=torch.float32, device="cpu")
    assert {p.name: p.stat().st_mtime_ns for p in cache.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "seed", "dtype"),
    [
        ({"presets": {"bicubic": 1.0}}, SEED, torch.float32),
        ({}, SEED + 1, torch.float32),
        ({}, SEED, torch.bfloat16),
    ],
)
def test_a_cache_that_was_made_for_something_else_is_refused(
    cache: Path, crops: Path, changes: dict[str, object], seed: int, dtype: torch.dtype
) -> None:
    with pytest.raises(ConfigError, match=r"was made for .* name another data\.cache"):
        cached_crops(config_for(crops, cache, **changes), seed=seed, dtype=dtype, device="cpu")


def test_missing_crops_are_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run: python -m train data"):
        cached_crops(config_for(tmp_path, tmp_path), seed=SEED, dtype=torch.float32, device="cpu")


def interrupted_copy(cache: Path, folder: Path) -> Path:
    """Return a cache that was stopped after its first crop, which bears a mark."""
    shutil.copytree(cache, folder)
    (folder / "_SUCCESS.json").unlink()
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    (folder / "progress.json").write_text(json.dumps({**progress, "done": 1}), encoding="utf-8")
    for name in ("hq", "lq", "prior", "trunk"):
        array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+")
        array[1] = 0
        array.flush()
    marked = np.lib.format.open_memmap(folder / "lq.npy", mode="r+")
    marked[0, 0, 0] = (1, 2, 3)
    marked.flush()
    return folder


def test_an_interrupted_fill_goes_on_where_it_was(cache: Path, crops: Path, tmp_path: Path) -> None:
    folder = interrupted_copy(cache, tmp_path / "cache")
    cached_crops(config_for(crops, folder), seed=SEED, dtype=torch.float32, device="cpu")
    for name in ("hq", "lq", "prior", "trunk"):
        ours, theirs = (np.load(place / f"{name}.npy") for place in (folder, cache))
        assert np.array_equal(ours[1], theirs[1])
    assert np.load(folder / "lq.npy")[0, 0, 0].tolist() == [1, 2, 3]
    assert (folder / "_SUCCESS.json").is_file()


def test_an_interrupted_fill_for_something_else_starts_again(cache: Path, crops: Path, tmp_path: Path) -> None:
    folder = interrupted_copy(cache, tmp_path / "cache")
    path = folder / "progress.json"
    progress = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**progress, "key": {**progress["key"], "seed": 99}}), encoding="utf-8")
    cached_crops(config_for(crops, folder), seed=SEED, dtype=torch.float32, device="cpu")
    assert (folder / "lq.npy").read_bytes() == (cache / "lq.npy").read_bytes()
