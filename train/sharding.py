"""Frozen weights spread over processes (FSDP), while what is trained stays whole in each."""

from collections.abc import Sequence

from torch import nn

from sr_core.errors import ConfigError


def shard_frozen(module: nn.Module, blocks: Sequence[str], *, reshard: bool = True) -> int:
    """Spread the frozen weights of every block, by the name of its class, and of the rest; return the number of blocks.

    A block's weights are gathered when it is called. Trained weights are left alone: the loop averages their gradients,
    so that checkpoints, hashes and results are those of any other run. Raises ConfigError if no block has such a name.
    """
    from torch.distributed.fsdp import fully_shard

    trained = {parameter for parameter in module.parameters() if parameter.requires_grad}
    found = [part for part in module.modules() if type(part).__name__ in blocks]
    if not found:
        raise ConfigError(
            f"fsdp_transformer_layer_cls_to_wrap must name blocks of {type(module).__name__}, got {', '.join(blocks)}"
        )
    for part in found:
        fully_shard(part, reshard_after_forward=reshard, ignored_params=trained)
    fully_shard(module, reshard_after_forward=reshard, ignored_params=trained)
    return len(found)
