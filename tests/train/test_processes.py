from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

from sr_core.errors import ConfigError
from train.processes import Processes

FOLDER = Path(__file__).parents[2] / "train" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "one_gpu": DistributedType.NO,
    "eight_gpus": DistributedType.MULTI_GPU,
    "two_nodes": DistributedType.MULTI_GPU,
    "fsdp": DistributedType.FSDP,
    "two_cpu_processes": DistributedType.MULTI_GPU,
}


def test_every_kind_of_launch_has_a_file() -> None:
    assert {path.stem for path in FILES} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_accelerate_reads_every_file_without_an_unknown_key(path: Path) -> None:
    found = load_config_from_file(str(path))
    assert isinstance(found, ClusterConfig)
    assert found.distributed_type == KINDS[path.stem]
    assert found.num_processes == {"one_gpu": 1, "two_nodes": 16, "two_cpu_processes": 2}.get(path.stem, 8)
    # The recipe's dtype decides; a second autocast around the loop would hide it.
    assert found.mixed_precision == "no"


def test_fsdp_is_the_version_that_the_loop_knows_and_wraps_blocks_that_exist() -> None:
    from sr_core.backbones import flux_conditioned

    settings = yaml.safe_load((FOLDER / "fsdp.yaml").read_text(encoding="utf-8"))["fsdp_config"]
    assert settings["fsdp_version"] == 2
    for name in settings["fsdp_transformer_layer_cls_to_wrap"].split(","):
        assert hasattr(flux_conditioned, name)


def test_micro_batches_cover_a_batch_once_and_must_divide_it() -> None:
    processes = Processes()
    for size, count in ((0, 1), (4, 3), (12, 1), (1, 12)):
        parts = processes.parts(12, size)
        assert len(parts) == count
        assert sorted(k for part in parts for k in range(12)[part]) == list(range(12))
    with pytest.raises(ConfigError, match="micro_batch must divide the 12 samples"):
        processes.parts(12, 5)
