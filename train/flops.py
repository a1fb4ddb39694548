"""Floating-point operations of what a model really runs, and what share of a device's peak that is."""

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

PEAK_BF16 = 989e12
"""Dense bfloat16 FLOP/s of one H100 or H200 (SXM), from NVIDIA's data sheet."""


def count_flops(call: Callable[[], object]) -> int:
    """Run a call once and count the FLOPs of its matrix products, convolutions and attention, backward pass included.

    A multiplication and its addition are two. Whatever is recomputed for gradient checkpointing counts again, since the
    device does it again.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def utilisation(flops: int, seconds: float, peak: float = PEAK_BF16) -> float:
    """Return the share of the device's peak that was used (PaLM, arXiv 2204.02311, appendix B).

    Model FLOPs utilisation (MFU) where nothing is recomputed, as in drawing; hardware FLOPs utilisation (HFU) where the
    count holds what gradient checkpointing recomputes.
    """
    return flops / seconds / peak
