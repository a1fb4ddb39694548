"""Unpack a stranger's zip in a child process with limits: only named images, each decoded before it is let through.

Run as `python -m sr_core.unpacking KIND ZIP FOLDER` it is the child: files go to FOLDER, a report to its output.
"""

import json
import stat
import struct
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from sr_core.decoding import decode, sniff
from sr_core.errors import InputError
from sr_core.limits import MAX_UPLOAD_BYTES, UPLOADS, Limits
from sr_core.sandbox import child_command, limit_resources, run_limited

MAX_UNPACKED_BYTES = 512 * 2**20
MAX_ENTRIES = 256
MAX_RUN_BYTES = 4 * 2**20
"""Largest run.json; one of 48 candidates with every metric has 100 kB."""
PACKED = Limits(128 * 2**20, 50_000_000, 1)
"""What an image of our own inside an archive may measure; a visitor's is held to what he may upload."""
CPU_S = 120
"""Processor time of the child; 48 candidates of 1024 px take 10 s of it."""
TIMEOUT_S = 300
_RUN_FILE = "run.json"
_READ_BYTES = 2**20
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
    MemoryError,
)
"""What the standard library raises on hostile archives; RuntimeError covers compression that it does not know."""


class UnpackedImage(NamedTuple):
    """An image that came out of an archive and decodes."""

    name: str
    """File name in the folder."""
    label: str
    """What it was called inside the archive, without its ending."""
    width: int
    height: int


class _Entry(NamedTuple):
    info: zipfile.ZipInfo
    path: PurePosixPath


def unpack_run(archive: Path, folder: Path) -> dict[str, UnpackedImage]:
    """Put `run.json` and exactly the images that it names into the empty `folder`; returns the images by file name.

    Raises InputError if the archive or one of its files cannot be trusted; what is in `folder` then is for the bin.
    """
    return {image.name: image for image in _unpack("run", archive, folder)}


def unpack_images(archive: Path, folder: Path) -> tuple[UnpackedImage, ...]:
    """Put every image of an archive into the empty `folder` under names of our own, in the order of their names.

    Files that are no images by their ending are passed over. Raises InputError as `unpack_run`.
    """
    return tuple(_unpack("images", archive, folder))


def _unpack(kind: str, archive: Path, folder: Path) -> list[UnpackedImage]:
    try:
        size = archive.stat().st_size
    except OSError as error:
        raise InputError(f"{archive.name} must be a readable file: {error.strerror}") from error
    if size > MAX_UPLOAD_BYTES:
        raise InputError(
            f"{archive.name} must be at most {MAX_UPLOAD_BYTES // 2**20} MB, got {size / 2**20:.1f} MB; "
            "open the run's folder on your own machine instead"
        )
    printed = run_limited(
        child_command("sr_core.unpacking", kind, str(archive.absolute()), str(folder.absolute())),
        timeout_s=TIMEOUT_S,
        too_slow=f"{archive.name} must unpack within {TIMEOUT_S} s",
        broken=f"{archive.name} must be a sound zip of images, but it broke its decoder or its limits",
    )
    report = json.loads(printed)
    if "error" in report:
        raise InputError(report["error"])
    return [UnpackedImage(*image) for image in report["images"]]


def _entries(archive: zipfile.ZipFile) -> list[_Entry]:
    """Return the files of an archive; raises InputError if any entry, wanted or not, is one that only attacks have."""
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise InputError(f"the archive must hold at most {MAX_ENTRIES} files, got {len(infos)}")
    total = sum(info.file_size for info in infos)
    if total > MAX_UNPACKED_BYTES:
        raise InputError(
            f"the archive must unpack to at most {MAX_UNPACKED_BYTES // 2**20} MB, got {total / 2**20:.0f} MB"
        )
    seen: set[str] = set()
    entries = []
    for info in infos:
        path = _safe_path(info)
        key = unicodedata.normalize("NFC", str(path)).casefold()
        if key in seen:
            raise InputError(f"the archive must hold each name once, got {str(path)!r} twice")
        seen.add(key)
        if not info.is_dir() and not _is_litter(path):
            entries.append(_Entry(info, path))
    return entries


def _safe_path(info: zipfile.ZipInfo) -> PurePosixPath:
    """Return an entry's path inside the archive; raises InputError if it leads elsewhere or is no plain file."""
    name = info.orig_filename
    parts = name.rstrip("/").split("/")
    if (
        not name.strip("/")
        or name.startswith("/")
        or "\\" in name
        or ":" in name
        or any(part in ("", ".", "..") or len(part.encode(errors="replace")) > 255 for part in parts)
        or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
        or len(name) > 1000
    ):
        raise InputError(f"names in the archive must be plain and lead downwards, got {name[:80]!r}")
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"the archive must hold plain files, but {name[:80]!r} is a link or a device")
    if info.flag_bits & 0x1:
        raise InputError(f"the archive must not be locked by a password, but {name[:80]!r} is")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"files in the archive must be stored or deflated, but {name[:80]!r} is not; zip it again")
    return PurePosixPath(*parts)


def _is_litter(path: PurePosixPath) -> bool:
    """Return whether a file is what desktops leave in archives on their own."""
    return path.parts[0] == "__MACOSX" or path.name.startswith("._") or path.name in (".DS_Store", "Thumbs.db")


def _copy(archive: zipfile.ZipFile, entry: _Entry, target: Path, most: int) -> bytes:
    """Write one entry to `target` and return its bytes; raises InputError above `most` bytes."""
    if entry.info.file_size > most:
        size = entry.info.file_size / 2**20
        raise InputError(f"{entry.path.name} must be at most {most // 2**20} MB, got {size:.1f} MB")
    content = bytearray()
    with archive.open(entry.info) as source, target.open("xb") as file:
        while chunk := source.read(_READ_BYTES):
            content += chunk
            if len(content) > entry.info.file_size:
                raise InputError(f"{entry.path.name} must be as large as the archive says, but it is larger")
        file.write(content)
    return bytes(content)


def _checked_image(data: bytes, entry: _Entry, target: Path, *, is_own: bool) -> UnpackedImage:
    """Decode an image; raises InputError if it is none, or one of ours whose ending says another kind."""
    kind = sniff(data, entry.path.name)
    if is_own and target.suffix.lower() not in _SUFFIXES[kind]:
        raise InputError(f"{entry.path.name} must be what its name says, but its content is {kind}")
    height, width = decode(data, entry.path.name, PACKED if is_own else UPLOADS).pixels.shape[:2]
    return UnpackedImage(target.name, str(entry.path.with_suffix("")), int(width), int(height))


def _unpacked_run(archive: zipfile.ZipFile, folder: Path) -> Iterator[UnpackedImage]:
    entries = {entry.path: entry for entry in _entries(archive)}
    found = [path for path in entries if path.name == _RUN_FILE and len(path.parts) <= 2]
    if len(found) != 1:
        raise InputError(f"the archive must hold one run, a folder with {_RUN_FILE}, got {len(found)}")
    text = _copy(archive, entries[found[0]], folder / _RUN_FILE, MAX_RUN_BYTES)
    for name, is_own in files_named_in(_json_object(text), (path.name for path in entries)).items():
        entry = entries.get(found[0].with_name(name))
        if entry is None:
            raise InputError(f"the archive must hold every file of its run, but {name!r} is not in it")
        target = folder / name
        data = _copy(archive, entry, target, PACKED.file_bytes)
        yield _checked_image(data, entry, target, is_own=is_own)


def _json_object(text: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{_RUN_FILE} must be JSON: {str(error)[:120]}") from error
    if not isinstance(values, dict):
        raise InputError(f"{_RUN_FILE} must hold one object, got {type(values).__name__}")
    return values


def files_named_in(values: Mapping[str, Any], present: Iterable[str]) -> dict[str, bool]:
    """Return the image files that the content of a run.json names, each with whether the project wrote it.

    Those of the visitor, the photo and the reference (`reference.*` among the names `present`), may have any ending.
    Raises InputError if a name is not that of a file in the run's own folder.
    """
    photo = values.get("input")
    records = values.get("candidates")
    if not isinstance(photo, dict) or not isinstance(records, list):
        raise InputError(f"{_RUN_FILE} must name its input and its candidates")
    names: dict[str, bool] = {_plain(photo.get("file")): False}
    if values.get("reference") is True:
        stored = sorted({name for name in present if PurePosixPath(name).stem == "reference"})
        if len(stored) != 1:
            raise InputError(f"a run with a reference must hold one file named reference, got {len(stored)}")
        names[_plain(stored[0])] = False
    own = [values.get("prior")]
    for record in records:
        if not isinstance(record, dict):
            raise InputError(f"candidates in {_RUN_FILE} must be objects")
        own += [record.get("file"), record.get("before")]
    for name in (name for name in own if name is not None):
        if _plain(name) in names:
            raise InputError(f"each file of a run must have one purpose, got {name!r} twice")
        names[_plain(name)] = True
    return names


def _plain(name: object) -> str:
    """Return the name of a file that lies in the run's folder itself; raises InputError for any other."""
    if (
        not isinstance(name, str)
        or not name
        or len(name.encode(errors="replace")) > 255
        or name.startswith(".")
        or name.casefold() == _RUN_FILE
        or any(letter in "/\\:" or unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
    ):
        raise InputError(f"files of a run must lie in its folder, got {str(name)[:80]!r}")
    return name


def _unpacked_images(archive: zipfile.ZipFile, folder: Path) -> Iterator[UnpackedImage]:
    wanted = [entry for entry in _entries(archive) if entry.path.suffix.lower() in IMAGE_SUFFIXES]
    if not wanted:
        raise InputError("the archive must hold at least one image, got none")
    for number, entry in enumerate(sorted(wanted, key=lambda entry: str(entry.path))):
        target = folder / f"{number:03d}{entry.path.suffix.lower()}"
        data = _copy(archive, entry, target, PACKED.file_bytes)
        yield _checked_image(data, entry, target, is_own=False)


_KINDS = {"run": _unpacked_run, "images": _unpacked_images}


def _report(kind: str, file: BinaryIO, name: str, folder: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            return {"images": list(_KINDS[kind](archive, folder))}
    except InputError as error:
        return {"error": f"{name}: {error}"}
    except _ZIP_ERRORS as error:
        reason = str(error).split("\n", 1)[0][:120] or type(error).__name__
        return {"error": f"{name} must be a complete zip archive ({reason}); download or pack it again"}


def main() -> None:
    """Unpack argv[2] into the folder argv[3]; a refusal is an answer, not a failure."""
    kind, path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    limit_resources(cpu_s=CPU_S)
    with path.open("rb") as file:
        report = _report(kind, file, path.name, folder)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
