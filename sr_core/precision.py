"""Which floating-point precision a machine runs natively."""

import torch

from sr_core.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _native_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """Return the torch dtype of `name`; `auto` is bfloat16 where the processor has it, else float32.

    Raises ConfigError for another name.
    """
    if name == "auto":
        return torch.bfloat16 if _native_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"dtype must be auto, {' or '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]
