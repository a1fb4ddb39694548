import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_core.errors import InputError
from sr_core.exif import (
    EXIF_IFD,
    GPS_IFD,
    LONG,
    MAKER_NOTE,
    ORIENTATION,
    SHORT,
    Directory,
    Entry,
    Exif,
    for_pixels,
    integer_of,
    integers,
    pack_exif,
    parse_exif,
    rational,
    rational_of,
    without_gps,
    without_maker_note,
)

INTEL = b"II*\x00\x08\x00\x00\x00"
ORDERS = st.sampled_from(["<", ">"])
ENTRIES = st.builds(Entry, st.sampled_from([1, 2, 7]), st.binary(min_size=1, max_size=20))
DIRECTORIES = st.dictionaries(st.integers(0, 0x7FFF), ENTRIES, min_size=1, max_size=8)


@given(ORDERS, DIRECTORIES, DIRECTORIES, DIRECTORIES)
def test_parsing_undoes_packing(order: str, first: Directory, child: Directory, places: Directory) -> None:
    tree = Exif(order, {**first, EXIF_IFD: child, GPS_IFD: places})  # type: ignore[arg-type]
    assert parse_exif(pack_exif(tree)) == tree
    assert parse_exif(b"Exif\x00\x00" + pack_exif(tree)) == tree


@given(st.binary(max_size=300), st.sampled_from([b"II*\x00\x08\x00\x00\x00", b"MM\x00*\x00\x00\x00\x08", b""]))
def test_any_bytes_are_parsed_or_refused(content: bytes, header: bytes) -> None:
    try:
        tree = parse_exif(header + content)
    except InputError:
        return
    assert parse_exif(pack_exif(tree)) == tree


def test_entries_that_overlap_cannot_grow_without_bound() -> None:
    block = 200_000
    num_entries = 1000
    entry = (0x9000).to_bytes(2, "little") + (7).to_bytes(2, "little") + block.to_bytes(4, "little")
    directory = num_entries.to_bytes(2, "little") + (entry + (8).to_bytes(4, "little")) * num_entries
    with pytest.raises(InputError, match="at most"):
        parse_exif(INTEL + directory + bytes(block))


def test_a_directory_that_is_its_own_child_ends() -> None:
    loop = b"\x01\x00" + EXIF_IFD.to_bytes(2, "little") + b"\x04\x00" + b"\x01\x00\x00\x00" + b"\x08\x00\x00\x00"
    assert isinstance(parse_exif(INTEL + loop + bytes(4)), Exif)


def test_a_tree_is_made_true_for_the_output() -> None:
    child: Directory = {0xA002: integers(LONG, ">", 4000), MAKER_NOTE: Entry(7, b"private")}
    tree = Exif(">", {ORIENTATION: integers(SHORT, ">", 6), 282: rational(">", 72.0), EXIF_IFD: child})
    result = for_pixels(tree, 800, 600, (300.0, 150.0))
    assert integer_of(result, ORIENTATION) == 1
    assert rational_of(result, 282) == 300
    assert rational_of(result, 283) == 150
    inner = result.tags[EXIF_IFD]
    assert isinstance(inner, dict)
    assert integer_of(Exif(">", inner), 0xA002) == 800
    assert integer_of(Exif(">", inner), 0xA003) == 600
    assert inner[MAKER_NOTE] == Entry(7, b"private")
    assert integer_of(tree, ORIENTATION) == 6


def test_without_a_resolution_none_is_claimed() -> None:
    tree = Exif("<", {282: rational("<", 72.0), 296: integers(SHORT, "<", 2)})
    assert not {282, 283, 296} & set(for_pixels(tree, 8, 8, None).tags)


def test_dropping_places_or_the_maker_s_block_drops_nothing_else() -> None:
    name = Entry(2, b"Jos\xc3\xa9\x00")
    child: Directory = {MAKER_NOTE: Entry(7, b"private"), 0x9003: name}
    tree = Exif("<", {315: name, EXIF_IFD: child, GPS_IFD: {1: Entry(2, b"N\x00")}})
    assert without_gps(tree).tags == {315: name, EXIF_IFD: child}
    assert without_maker_note(tree).tags == {**tree.tags, EXIF_IFD: {0x9003: name}}
