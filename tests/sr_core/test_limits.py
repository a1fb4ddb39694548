import pytest

from sr_core.errors import InputError
from sr_core.limits import (
    MAX_FILE_BYTES,
    MAX_OUTPUT_PIXELS,
    MAX_OUTPUT_SIDE,
    check_file_size,
    check_output_size,
    largest_factor,
)


@pytest.mark.parametrize("size", [(1, 1), (4096, 4096), (MAX_OUTPUT_SIDE, MAX_OUTPUT_SIDE), (16_383, 32)])
def test_outputs_within_the_limits_pass(size: tuple[int, int]) -> None:
    check_output_size(*size)


@pytest.mark.parametrize("source", [(5000, 3000), (4000, 3500), (3000, 100), (7071, 7071), (2049, 2048)])
def test_the_refusal_names_a_size_and_a_factor_that_fit(source: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="largest that fits") as refusal:
        check_output_size(source[0] * 8, source[1] * 8, source=source)
    message = str(refusal.value)
    width, height = message.split("fits is ")[1].split(" px")[0].split(" x ")
    check_output_size(int(width), int(height))
    factor = float(message.split("(x")[1].rstrip(")"))
    assert factor == largest_factor(*source)
    check_output_size(round(source[0] * factor), round(source[1] * factor))


def test_one_step_above_the_largest_factor_does_not_fit() -> None:
    width, height = 5000, 3000
    factor = largest_factor(width, height) + 0.01
    assert max(width, height) * factor > MAX_OUTPUT_SIDE or width * height * factor**2 > MAX_OUTPUT_PIXELS


def test_files_are_refused_above_32_megabytes_and_when_empty() -> None:
    check_file_size(MAX_FILE_BYTES, "photo.png")
    with pytest.raises(InputError, match=r"photo\.png must be at most 32 MB, got 33\.0 MB"):
        check_file_size(33 * 2**20, "photo.png")
    with pytest.raises(InputError, match=r"photo\.png .*empty"):
        check_file_size(0, "photo.png")
