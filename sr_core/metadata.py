"""What travels with the pixels: EXIF, resolution, and the XMP mark of content made with trained models."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image as PillowImage

from sr_core.errors import InputError
from sr_core.exif import (
    ORIENTATION,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    Exif,
    descriptive,
    for_pixels,
    integer_of,
    pack_exif,
    parse_exif,
    rational_of,
    without_gps,
    without_maker_note,
)

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a photograph that a trained model has partly made."""

_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RECIPE = "urn:sr-reward-explorer:recipe:1.0#"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MAX_EXIF_BYTES = 65_000
"""A JPEG segment holds no more."""
_CENTIMETRES = 3


@dataclass(frozen=True)
class Metadata:
    """What a photo's file said besides its pixels."""

    exif: bytes | None = None
    """TIFF structure without thumbnail and storage tags; places are inside until `write_image` drops them."""
    icc: bytes | None = None
    """The input's colour profile, for the record: pixels are sRGB already."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical print resolution in pixels per inch."""


class Found(NamedTuple):
    """Metadata and how the stored pixels have to be turned."""

    metadata: Metadata
    orientation: int
    """EXIF orientation, 1 to 8."""
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Marker:
    """The mark of content made with trained models, read back from a file."""

    digital_source_type: str
    recipe: Mapping[str, object] | None
    """What made the picture (seed, backbone, ...), if it was written by this project."""


def read_metadata(image: PillowImage.Image, data: bytes, kind: str) -> Found:
    """Collect the metadata of an opened file; what cannot be read is left out with a notice."""
    icc = image.info.get("icc_profile") or None
    raw = data if kind == "TIFF" else image.info.get("exif")
    exif: Exif | None = None
    notices: tuple[str, ...] = ()
    if raw:
        try:
            exif = descriptive(parse_exif(raw))
        except InputError:
            notices = ("the EXIF data cannot be read; it is left out",)
    orientation = integer_of(exif, ORIENTATION) if exif is not None else None
    if orientation is None or not 1 <= orientation <= 8:
        orientation = 1
    dpi = _resolution(image, exif)
    if dpi is not None and orientation >= 5:
        dpi = dpi[1], dpi[0]
    packed = None
    if exif is not None:
        packed = pack_exif(for_pixels(exif, *image.size, dpi))
        if len(packed) > _MAX_EXIF_BYTES:
            packed = pack_exif(for_pixels(without_maker_note(exif), *image.size, dpi))
            notices = (*notices, "the camera maker's private EXIF block is too long to be carried")
        if len(packed) > _MAX_EXIF_BYTES:
            packed, notices = None, (*notices, "the EXIF data is too long to be carried")
    return Found(Metadata(packed, icc, dpi), orientation, notices)


def _resolution(image: PillowImage.Image, exif: Exif | None) -> tuple[float, float] | None:
    """Return pixels per inch from EXIF, else from the container."""
    if exif is not None:
        x, y = rational_of(exif, X_RESOLUTION), rational_of(exif, Y_RESOLUTION)
        unit = integer_of(exif, RESOLUTION_UNIT) or 2
        if x and y and unit in (2, _CENTIMETRES):
            inch = 2.54 if unit == _CENTIMETRES else 1.0
            return _plausible(x * inch, y * inch)
    if image.info.get("jfif_unit") == 0:  # Pillow then reports 72 without having read it
        return None
    found = image.info.get("dpi")
    return _plausible(float(found[0]), float(found[1])) if found else None


def _plausible(x: float, y: float) -> tuple[float, float] | None:
    usable = all(math.isfinite(value) and 1 <= value <= 65_535 for value in (x, y))
    return (x, y) if usable else None


def output_exif(
    exif: bytes | None, width: int, height: int, dpi: tuple[float, float] | None, *, keep_gps: bool
) -> Exif:
    """Return the EXIF tree for an output of this size; places are dropped unless asked for."""
    tree = Exif("<", {}) if exif is None else parse_exif(exif)
    return for_pixels(tree if keep_gps else without_gps(tree), width, height, dpi)


def marker_packet(recipe: Mapping[str, object] | None) -> bytes:
    """Return the XMP packet that marks content made with trained models.

    Source: IPTC Photo Metadata Standard, Digital Source Type; EU 2024/1689, Article 50(2).
    """
    made_by = "" if recipe is None else f"<sr:recipe>{escape(json.dumps(dict(recipe), sort_keys=True))}</sr:recipe>"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}" xmlns:sr="{_RECIPE}">'
        f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>{made_by}"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def parse_marker(packet: bytes | None) -> Marker | None:
    """Read the mark from an XMP packet; None if there is no packet, no mark, or no valid XML."""
    # A document type could define entities that expand without bound; XMP never has one.
    if not packet or b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return None
    body = re.search(rb"<(\w+:)?(xmpmeta|RDF)\b.*</(\w+:)?(xmpmeta|RDF)\s*>", packet, re.DOTALL)
    try:
        root = ElementTree.fromstring(body[0]) if body else None
    except ElementTree.ParseError:
        return None
    found = {} if root is None else _properties(root)
    kind = found.get(f"{{{_IPTC}}}DigitalSourceType")
    if kind is None:
        return None
    try:
        recipe = json.loads(found.get(f"{{{_RECIPE}}}recipe", "null"))
    except json.JSONDecodeError:
        recipe = None
    return Marker(kind, recipe if isinstance(recipe, dict) else None)


def _properties(root: ElementTree.Element) -> dict[str, str]:
    """Return the simple properties of every description: XMP allows elements and attributes."""
    found: dict[str, str] = {}
    for description in root.iter(f"{{{_RDF}}}Description"):
        found.update(description.attrib)
        found.update({child.tag: child.text for child in description if child.text})
    return found
