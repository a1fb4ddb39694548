from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from sr_core.metadata import (
    DIGITAL_SOURCE_TYPE,
    Found,
    marker_packet,
    parse_marker,
    read_metadata,
)
from tests.sr_core.photo_files import crop, encoded, exif_bytes, exif_with_thumbnail


def found(data: bytes, kind: str) -> Found:
    with Image.open(BytesIO(data)) as image:
        return read_metadata(image, data, kind)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_is_carried_without_what_would_be_false(photos: Path, kind: str) -> None:
    metadata = found(encoded(crop(photos), kind, exif=exif_bytes(6)), kind).metadata
    assert metadata.exif is not None
    exif = Image.Exif()
    exif.load(metadata.exif)
    assert exif[274] == 1
    assert exif[271] == "Testmaker"
    assert exif.get_ifd(0x8769)[0x9003] == "2024:05:01 10:00:00"
    assert exif.get_ifd(0x8825)[2] == (48.0, 12.0, 30.0)
    assert metadata.dpi == (240.0, 240.0)
    assert 257 not in exif  # a TIFF's own storage tags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_camera_s_thumbnail_is_dropped(photos: Path, kind: str) -> None:
    thumbnail = encoded(crop(photos, 40, 40), "JPEG")
    data = encoded(crop(photos), kind, exif=exif_with_thumbnail(thumbnail))
    assert thumbnail in data
    metadata = found(data, kind).metadata
    assert metadata.exif is not None
    assert b"Testmaker" in metadata.exif
    assert b"\xff\xd8\xff" not in metadata.exif


def test_names_in_utf_8_survive_byte_for_byte(photos: Path) -> None:
    name = "José Ångström".encode()
    data = exif_bytes().replace(b"Testmaker\x00", b"Testmaker\x00")
    exif = Image.Exif()
    exif.load(data)
    exif[315] = name.decode("latin-1")
    # Pillow writes ASCII only, so the bytes are put in place by hand.
    exif[315] = "x" * len(name)
    packed = exif.tobytes().replace(b"x" * len(name), name)
    metadata = found(encoded(crop(photos), "JPEG", exif=packed), "JPEG").metadata
    assert metadata.exif is not None
    assert name in metadata.exif


def test_a_maker_s_block_that_no_jpeg_could_hold_is_left_out_with_a_notice(photos: Path) -> None:
    exif = Image.Exif()
    exif[271] = "Testmaker"
    exif.get_ifd(0x8769)[0x927C] = bytes(70_000)
    result = found(encoded(crop(photos), "PNG", exif=exif.tobytes()), "PNG")
    assert "maker" in result.notices[0]
    assert result.metadata.exif is not None
    assert b"Testmaker" in result.metadata.exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_the_container_s_resolution_is_read_where_exif_has_none(photos: Path, kind: str) -> None:
    dpi = found(encoded(crop(photos), kind, dpi=(300, 150)), kind).metadata.dpi
    assert dpi == pytest.approx((300, 150), abs=0.5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_without_a_resolution_has_none(photos: Path, kind: str) -> None:
    assert found(encoded(crop(photos), kind), kind).metadata.dpi is None


def test_a_turned_photo_s_resolution_turns_with_it(photos: Path) -> None:
    exif = Image.Exif()
    exif[274], exif[282], exif[283], exif[296] = 8, 300.0, 150.0, 2
    assert found(encoded(crop(photos), "JPEG", exif=exif), "JPEG").metadata.dpi == (150, 300)


@pytest.mark.parametrize("recipe", [None, {}, {"seed": 7, "backbone": "compact", "note": "<&>\"' é \u4e2d"}])
def test_the_mark_and_its_recipe_are_read_back(recipe: dict[str, object] | None) -> None:
    marker = parse_marker(marker_packet(recipe))
    assert marker is not None
    assert marker.digital_source_type == DIGITAL_SOURCE_TYPE
    assert marker.recipe == recipe


def test_the_mark_of_other_programs_is_read_as_an_attribute_too() -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<r:Description xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" I:DigitalSourceType="other"/>'
        b"</r:RDF></x:xmpmeta>"
    )
    marker = parse_marker(packet)
    assert marker is not None
    assert marker.digital_source_type == "other"
    assert marker.recipe is None


@pytest.mark.parametrize(
    "packet",
    [
        None,
        b"",
        b"<x:xmpmeta",
        b"<rdf:RDF xmlns:rdf='x'></rdf:RDF>",
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + marker_packet(None),
    ],
)
def test_packets_without_a_mark_or_with_entities_have_none(packet: bytes | None) -> None:
    assert parse_marker(packet) is None
