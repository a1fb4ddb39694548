"""Read, edit and write EXIF directories without touching the bytes of the tags that stay.

Values stay raw, so a UTF-8 name or a maker's private tag comes out as it went in. The same
directories are the skeleton of a TIFF file. Source: TIFF 6.0, section 2; CIPA DC-008 (Exif 3.0).
"""

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from sr_core.errors import InputError

ORIENTATION = 274
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
MAKER_NOTE = 0x927C
COLOR_SPACE, PIXEL_WIDTH, PIXEL_HEIGHT = 0xA001, 0xA002, 0xA003

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
MAX_ENTRIES = 1024
MAX_ENTRY_BYTES, MAX_DIRECTORY_BYTES = 2**18, 2**22
"""Entries may overlap, so a small file can name more bytes than fit in memory."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
_POINTERS = frozenset({EXIF_IFD, GPS_IFD, INTEROP_IFD})

# Tags that describe how the input file stores its pixels; in another file they would be lies.
_STRUCTURAL = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289}
    | {290, 291, 292, 293, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337}
    | {338, 339, 340, 341, 342, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
    | {700, 33723, 34377, 34675, 37724}
)


ByteOrder: TypeAlias = Literal["<", ">"]
"""Intel or Motorola."""


class Entry(NamedTuple):
    """One tag's value as it stands in the file."""

    kind: int
    """TIFF field type."""
    data: bytes
    """The value in the directory's byte order; its length is a multiple of the type's size."""


Directory: TypeAlias = dict[int, "Entry | Directory"]


class Exif(NamedTuple):
    """A tree of directories and the byte order of its values."""

    order: ByteOrder
    tags: Directory


def parse_exif(data: bytes) -> Exif:
    """Read the first directory and its Exif, GPS and Interop children; the thumbnail is not read.

    Entries that are huge or point outside `data` are left out. Raises InputError if `data` is no
    TIFF structure or a directory is too long.
    """
    data = data.removeprefix(b"Exif\x00\x00")
    orders: dict[bytes, ByteOrder] = {b"II*\x00": "<", b"MM\x00*": ">"}
    order = orders.get(data[:4])
    if order is None or len(data) < 8:
        raise InputError(f"EXIF must begin with a TIFF header, got {data[:8]!r}")
    tags = _parse_directory(data, struct.unpack_from(order + "I", data, 4)[0], order, depth=0)
    if tags is None:
        raise InputError("EXIF must hold a directory inside its bytes")
    return Exif(order, tags)


def _parse_directory(data: bytes, offset: int, order: ByteOrder, *, depth: int) -> Directory | None:
    if offset + 2 > len(data):
        return None
    (count,) = struct.unpack_from(order + "H", data, offset)
    tags: Directory = {}
    held = 0
    for at in range(offset + 2, offset + 2 + 12 * min(count, MAX_ENTRIES), 12):
        if at + 12 > len(data):
            break
        tag, kind, length = struct.unpack_from(order + "HHI", data, at)
        size = _SIZES.get(kind, 0) * length
        where = at + 8 if size <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
        if not 0 < size <= MAX_ENTRY_BYTES or where + size > len(data):
            continue
        held += size
        if held > MAX_DIRECTORY_BYTES:
            raise InputError(f"an EXIF directory must hold at most {MAX_DIRECTORY_BYTES} bytes")
        if tag not in _POINTERS:
            tags[tag] = Entry(kind, data[where : where + size])
        elif kind in (LONG, 13) and depth < 2:
            child = _parse_directory(data, struct.unpack_from(order + "I", data, at + 8)[0], order, depth=depth + 1)
            if child:
                tags[tag] = child
    return tags


def pack_exif(exif: Exif) -> bytes:
    """Return the TIFF structure of `exif`, without the `Exif` prefix of JPEG."""
    return tiff_header(exif.order, 8) + pack_directory(exif.tags, exif.order, 8)


def tiff_header(order: ByteOrder, first_directory: int) -> bytes:
    """Return the 8 bytes before everything else in a TIFF structure."""
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, first_directory)


def pack_directory(tags: Directory, order: ByteOrder, offset: int) -> bytes:
    """Return a directory that will lie at byte `offset`, followed by its long values and children."""
    tail_at = offset + 2 + 12 * len(tags) + 4
    head, tail = bytearray(struct.pack(order + "H", len(tags))), bytearray()
    for tag, value in sorted(tags.items(), key=lambda item: item[0]):
        if isinstance(value, dict):
            child = pack_directory(value, order, tail_at + len(tail))
            head += struct.pack(order + "HHII", tag, LONG, 1, tail_at + len(tail))
            tail += child + b"\x00" * (len(child) % 2)
            continue
        head += struct.pack(order + "HHI", tag, value.kind, len(value.data) // _SIZES[value.kind])
        if len(value.data) <= 4:
            head += value.data.ljust(4, b"\x00")
        else:
            head += struct.pack(order + "I", tail_at + len(tail))
            tail += value.data + b"\x00" * (len(value.data) % 2)
    return bytes(head + struct.pack(order + "I", 0) + tail)


def integers(kind: int, order: ByteOrder, *values: int) -> Entry:
    """Return a SHORT or LONG entry."""
    return Entry(kind, struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values))


def rational(order: ByteOrder, value: float) -> Entry:
    """Return a positive number as a fraction of ten thousandths."""
    return Entry(RATIONAL, struct.pack(order + "II", round(value * 10_000), 10_000))


def integer_of(exif: Exif, tag: int) -> int | None:
    """Return the first integer of a SHORT or LONG tag of the first directory, if it has one."""
    entry = exif.tags.get(tag)
    if isinstance(entry, Entry) and entry.kind in (SHORT, LONG):
        return int(struct.unpack_from(exif.order + ("H" if entry.kind == SHORT else "I"), entry.data)[0])
    return None


def rational_of(exif: Exif, tag: int) -> float | None:
    """Return the first fraction of a RATIONAL tag of the first directory, if it has one."""
    entry = exif.tags.get(tag)
    if not isinstance(entry, Entry) or entry.kind != RATIONAL:
        return None
    numerator, denominator = struct.unpack_from(exif.order + "II", entry.data)
    return numerator / denominator if denominator else None


def descriptive(exif: Exif) -> Exif:
    """Keep what describes the photograph; drop what describes how its file stores pixels."""
    return exif._replace(tags={tag: value for tag, value in exif.tags.items() if tag not in _STRUCTURAL})


def without_gps(exif: Exif) -> Exif:
    """Drop the whole directory of places."""
    return exif._replace(tags={tag: value for tag, value in exif.tags.items() if tag != GPS_IFD})


def without_maker_note(exif: Exif) -> Exif:
    """Drop the camera maker's private block, the only part that grows large."""
    return exif._replace(tags=dict(_drop(exif.tags, MAKER_NOTE)))


def _drop(tags: Directory, unwanted: int) -> Iterator[tuple[int, "Entry | Directory"]]:
    for tag, value in tags.items():
        if tag != unwanted:
            yield tag, dict(_drop(value, unwanted)) if isinstance(value, dict) else value


def for_pixels(exif: Exif, width: int, height: int, dpi: tuple[float, float] | None) -> Exif:
    """Make `exif` true for an upright sRGB image of this size and print resolution."""
    order, tags = exif.order, dict(exif.tags)
    tags[ORIENTATION] = integers(SHORT, order, 1)
    for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT):
        tags.pop(tag, None)
    if dpi is not None:
        tags[X_RESOLUTION], tags[Y_RESOLUTION] = rational(order, dpi[0]), rational(order, dpi[1])
        tags[RESOLUTION_UNIT] = integers(SHORT, order, 2)
    child = tags.get(EXIF_IFD)
    size: Directory = {
        COLOR_SPACE: integers(SHORT, order, 1),
        PIXEL_WIDTH: integers(LONG, order, width),
        PIXEL_HEIGHT: integers(LONG, order, height),
    }
    tags[EXIF_IFD] = {**(child if isinstance(child, dict) else {}), **size}
    return exif._replace(tags=tags)
