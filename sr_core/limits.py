"""What sizes of files and images are accepted, and the words in which others are refused."""

from typing import NamedTuple

from sr_core.errors import InputError

MAX_FILE_BYTES = 32 * 2**20
"""Of an image that someone hands in."""
MAX_UPLOAD_BYTES = 256 * 2**20
"""Of any file that the page takes: the weights of a network, or a whole run in one archive."""
MAX_INPUT_PIXELS = 50_000_000
MIN_SIDE = 32
MAX_OUTPUT_SIDE = 16_383
"""WebP stores no larger side; one limit for every format keeps them interchangeable."""
MAX_OUTPUT_PIXELS = 2**28
"""268 MP: one side at its limit, the other just above."""


class Limits(NamedTuple):
    """What may be read."""

    file_bytes: int
    pixels: int
    side: int
    """Least pixels a side."""


UPLOADS = Limits(MAX_FILE_BYTES, MAX_INPUT_PIXELS, MIN_SIDE)
OUTPUTS = Limits(2**32, MAX_OUTPUT_PIXELS, 1)
"""For files of our own making, which may be larger than what strangers may hand in."""


def check_file_size(num_bytes: int, name: str, limits: Limits = UPLOADS) -> None:
    """Raise InputError if a file is empty or too large to be read."""
    if num_bytes == 0:
        raise InputError(f"{name} must hold an image, but the file is empty; upload it again")
    if num_bytes > limits.file_bytes:
        raise InputError(
            f"{name} must be at most {limits.file_bytes // 2**20} MB, got {num_bytes / 2**20:.1f} MB; "
            "save it as JPEG, or crop it"
        )


def check_input_size(width: int, height: int, name: str, limits: Limits = UPLOADS) -> None:
    """Raise InputError if an image is too small to restore or too large to decode."""
    if min(width, height) < limits.side:
        raise InputError(
            f"{name} must measure at least {limits.side} px a side, got {width} x {height}; "
            "choose a larger version or a larger crop"
        )
    if width * height > limits.pixels:
        raise InputError(
            f"{name} must hold at most {limits.pixels // 10**6} megapixels, got {width} x {height} "
            f"({width * height / 1e6:.1f}); reduce or crop it first"
        )


def largest_factor(width: int, height: int) -> float:
    """Return the largest enlargement whose output fits, rounded down to two decimals."""
    factor = min(MAX_OUTPUT_SIDE / max(width, height), (MAX_OUTPUT_PIXELS / (width * height)) ** 0.5)
    return int(factor * 100) / 100


def check_output_size(width: int, height: int, *, source: tuple[int, int] | None = None) -> None:
    """Raise InputError, naming the largest that fits, if an output of this size cannot be made.

    With `source`, the input's (width, height), the message names the largest factor too.
    """
    if min(width, height) < 1:
        raise InputError(f"the output must measure at least 1 px a side, got {width} x {height}")
    if max(width, height) <= MAX_OUTPUT_SIDE and width * height <= MAX_OUTPUT_PIXELS:
        return
    shrink = min(1.0, MAX_OUTPUT_SIDE / max(width, height), (MAX_OUTPUT_PIXELS / (width * height)) ** 0.5)
    largest = f"{max(1, int(width * shrink))} x {max(1, int(height * shrink))} px"
    if source is not None:
        largest += f" (x{largest_factor(*source):g})"
    raise InputError(
        f"the output must measure at most {MAX_OUTPUT_SIDE} px a side and "
        f"{MAX_OUTPUT_PIXELS // 10**6} megapixels, got {width} x {height}; the largest that fits is {largest}"
    )
