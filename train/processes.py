"""The processes of one run: which one this is, what they average, and where they report to."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from sr_core.errors import ConfigError
from train.config import TrackerName
from train.sharding import shard_frozen

TRACKERS: tuple[str, ...] = get_args(TrackerName)
PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, who may be caching features or merging a dataset."""


class Processes:
    """One process alone, or one of several that `accelerate launch` or `torchrun` started."""

    def __init__(self, trackers: Iterable[str] = (), folder: Path | None = None) -> None:
        """Join the run; raises ConfigError if a tracker is unknown or its package is missing."""
        self._trackers = list(trackers)
        for name in self._trackers:
            if name not in TRACKERS:
                raise ConfigError(f"trackers must be among {', '.join(TRACKERS)}, got {name!r}")
            if find_spec(name) is None:
                raise ConfigError(f"tracker {name} needs its package; run: pip install {name}")
        self._accelerator = Accelerator(
            # Else processes that a launcher started on a machine without GPUs would each be a run of their own.
            cpu=not torch.accelerator.is_available(),
            log_with=self._trackers or None,
            project_dir=None if folder is None else str(folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        if self._accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ConfigError(
                "the loop averages gradients itself and does not run under DeepSpeed; "
                "to spread a large base over GPUs, launch with train/accelerate/fsdp.yaml"
            )

    @property
    def count(self) -> int:
        """Return how many processes the run has."""
        return int(self._accelerator.num_processes)

    @property
    def index(self) -> int:
        """Return which of them this is, from 0."""
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files."""
        return bool(self._accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        """Return this process's device."""
        return torch.device(self._accelerator.device)

    @property
    def shards(self) -> bool:
        """Return whether accelerate's configuration asks for FSDP."""
        return self._accelerator.distributed_type == DistributedType.FSDP

    def shard(self, module: nn.Module) -> None:
        """Spread a network's frozen weights over the processes where accelerate's configuration asks for FSDP.

        See `shard_frozen`. Raises ConfigError if the configuration asks for FSDP's first version.
        """
        if not self.shards:
            return
        plugin = self._accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise ConfigError("FSDP must be version 2 (fsdp_config.fsdp_version), see train/accelerate/fsdp.yaml")
        shard_frozen(module, plugin.transformer_cls_names_to_wrap or (), reshard=bool(plugin.reshard_after_forward))

    def share(self, total: int) -> slice:
        """Return this process's part of a batch; raises ConfigError if the parts would differ in size."""
        if total % self.count:
            raise ConfigError(f"batch_size must be a multiple of the {self.count} processes, got {total}")
        return slice(self.index, None, self.count)

    def share_of(self, total: int) -> slice:
        """Return this process's part of work whose parts may differ in size."""
        return slice(self.index, total, self.count)

    def parts(self, total: int, micro_batch: int) -> list[slice]:
        """Return this process's part of a batch in micro-batches; 0 is all of it at once.

        Raises ConfigError if processes and micro-batches do not divide the batch.
        """
        self.share(total)
        size = micro_batch or total // self.count
        if (total // self.count) % size:
            raise ConfigError(
                f"micro_batch must divide the {total // self.count} samples of each process, got {micro_batch}"
            )
        starts = range(self.index, total, self.count * size)
        return [slice(start, min(total, start + self.count * size), self.count) for start in starts]

    def wait(self) -> None:
        """Wait until every process is here."""
        self._accelerator.wait_for_everyone()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over processes."""
        if self.count == 1:
            return value
        reduced = self._accelerator.reduce(value, reduction="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over processes, in one message."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([g.flatten() for g in gradients]))
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def track(self, run: str, values: Mapping[str, Any]) -> None:
        """Open the trackers, if any, under the name of the run."""
        if self._trackers:
            flat = {key: value for key, value in values.items() if isinstance(value, int | float | str | bool)}
            self._accelerator.init_trackers(run, config=flat)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send figures to the trackers, if any."""
        if self._trackers:
            self._accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Flush the trackers, if any."""
        # `end_training` would also take the process group down, which the run still needs.
        for tracker in self._accelerator.trackers:
            tracker.finish()
