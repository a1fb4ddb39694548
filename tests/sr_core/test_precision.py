from pathlib import Path

import pytest
import torch

from sr_core.errors import ConfigError
from sr_core.precision import DTYPES, resolve_dtype

CPU_INFO = Path("/proc/cpuinfo")


@pytest.mark.parametrize(("name", "dtype"), DTYPES.items())
def test_a_named_precision_is_taken_at_its_word(name: str, dtype: torch.dtype) -> None:
    assert resolve_dtype(name, "cpu") == dtype


def test_auto_is_bfloat16_exactly_where_the_processor_has_it() -> None:
    # Only Linux lists what its processor can do; elsewhere torch reports no native bfloat16 on the CPU.
    native = CPU_INFO.is_file() and "avx512_bf16" in CPU_INFO.read_text(encoding="ascii")
    assert resolve_dtype("auto", "cpu") == (torch.bfloat16 if native else torch.float32)


def test_another_precision_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="float32 or bfloat16, got 'float16'"):
        resolve_dtype("float16", "cpu")
