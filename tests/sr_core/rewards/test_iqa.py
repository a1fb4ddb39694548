"""Laws of the metrics that come from pyiqa, with and without their files."""

import ast
from pathlib import Path

import pyiqa
import pytest
import torch

import sr_core
from sr_core.errors import WeightsError
from sr_core.rewards import GroupScorer, iqa
from sr_core.rewards.iqa import ENTRIES, PyiqaMetric, WeightsFile, check_files
from sr_core.rewards.local_files import find_in_package
from sr_core.rewards.registry import METRIC_SETS, METRICS, load_metric
from sr_core.tensors import Image

from .conftest import blurred, noisy

FROM_PYIQA = [name for name, spec in METRICS.items() if spec.source == "pyiqa"]


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torch's hub an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return Path(torch.hub.get_dir())


def test_every_metric_of_pyiqa_is_one_that_pyiqa_knows_and_reads_the_same_way() -> None:
    known = pyiqa.default_model_configs.DEFAULT_CONFIGS
    assert set(ENTRIES) == set(FROM_PYIQA)
    for name, entry in ENTRIES.items():
        assert known[entry.name].get("lower_better", False) == METRICS[name].lower_is_better, name
        assert (known[entry.name]["metric_mode"] == "FR") == METRICS[name].full_reference, name


def test_only_this_module_imports_pyiqa_and_only_inside_functions() -> None:
    root = Path(sr_core.__file__).parent
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [a.name for n in imports for a in n.names] + [str(getattr(n, "module", "")) for n in imports]
        if any(name.split(".")[0] == "pyiqa" for name in names):
            assert path == root / "rewards" / "iqa.py"
        top = [a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names]
        assert not any(name.startswith("pyiqa") for name in top)


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.files])
def test_a_missing_file_is_named_with_the_folder_it_belongs_to(name: str, empty_hub: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_metric(name)
    assert str(empty_hub) in str(error.value)
    assert all(file.path in str(error.value) for file in ENTRIES[name].files)
    assert not empty_hub.exists()


@pytest.mark.parametrize("name", ["paper", "standard"])
def test_a_set_without_its_files_says_all_that_is_missing(name: str, empty_hub: Path) -> None:
    missing = {metric.name: metric.reason for metric in GroupScorer(name).missing}
    chosen = METRIC_SETS[name]
    wanted = {*chosen.full_reference, *chosen.no_reference} & {n for n, entry in ENTRIES.items() if entry.files}
    assert wanted <= set(missing)
    assert all(str(empty_hub) in missing[metric] for metric in wanted)


def test_a_checkpoint_with_another_content_than_published_is_never_opened(empty_hub: Path) -> None:
    path = empty_hub / "pyiqa" / "musiq_koniq_ckpt-e95806b9.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the weights")
    with pytest.raises(WeightsError, match="starts with e95806b9"):
        load_metric("musiq")


def test_files_of_the_published_content_pass(empty_hub: Path) -> None:
    empty_hub.mkdir(parents=True)
    (empty_hub / "a.pth").write_bytes(b"abc")
    found = check_files("X", (WeightsFile(path="a.pth", sha256="ba7816bf"),))
    assert found["weights"] == "a.pth"
    assert str(found["sha256"]).startswith("ba7816bf8f01cfea")


@pytest.mark.usefixtures("empty_hub")
def test_no_download_starts_while_a_network_is_built() -> None:
    with iqa.without_network(), pytest.raises(WeightsError, match=r"weights\.pth must lie in"):
        torch.hub.load_state_dict_from_url("file:///somewhere/weights.pth")


def test_what_is_replaced_while_a_network_is_built_is_put_back() -> None:
    before = torch.hub.download_url_to_file
    with iqa.without_network():
        assert torch.hub.download_url_to_file is not before
    assert torch.hub.download_url_to_file is before


def test_a_network_that_spoils_its_input_takes_one_and_wants_multiples_of_32_gets_what_it_can_take(
    crops: Image,
) -> None:
    seen = []

    def network(images: Image, reference: Image | None) -> torch.Tensor:
        assert len(images) == 1
        assert images.shape[2] % 32 == images.shape[3] % 32 == 0
        assert reference is not None
        seen.append((images.clone(), reference.clone()))
        images.zero_()
        reference.zero_()
        return torch.tensor([[[float(len(seen))]]])

    metric = PyiqaMetric(spec=METRICS["afine_fr"], provenance={}, network=network, batch=1, multiple=32)
    images, before = crops[:, :, :100, :130], crops.clone()
    assert metric(images, images[:1]).tolist() == [1, 2, 3]
    assert torch.equal(crops, before)
    # Cut evenly: 2 px from each end of 100, 1 px from each end of 130.
    torch.testing.assert_close(seen[2][0], images[2:, :, 2:98, 1:129])
    torch.testing.assert_close(seen[2][1], images[:1, :, 2:98, 1:129])


def test_st_lpips_agrees_with_pyiqa(crops: Image) -> None:
    path = find_in_package("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth")
    network = pyiqa.create_metric("stlpips", device=torch.device("cpu"), pretrained_model_path=str(path))
    expected = network(crops, crops[:1].expand_as(crops)).reshape(-1)
    torch.testing.assert_close(load_metric("st_lpips")(crops, crops[:1]), expected, rtol=0, atol=1e-5)


def test_st_lpips_is_0_for_the_reference_grows_with_damage_and_keeps_quiet(
    photo: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = load_metric("st_lpips")
    images = torch.cat((photo, noisy(photo, 8), noisy(photo, 25), blurred(photo)))
    same, little, much, blur = metric(images, photo).tolist()
    assert same == pytest.approx(0, abs=1e-6)
    assert same < little < much
    assert blur > little
    assert metric(images[2:3], photo).item() == pytest.approx(much, abs=1e-5)
    assert len(str(metric.provenance["sha256"])) == 64
    assert capsys.readouterr().out == ""
