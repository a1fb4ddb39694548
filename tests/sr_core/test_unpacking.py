import io
import stat
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from sr_core import unpacking
from sr_core.errors import InputError
from sr_core.limits import MAX_UPLOAD_BYTES
from sr_core.unpacking import MAX_ENTRIES, unpack_images, unpack_run
from tests.sr_core.photo_files import crop, encoded


@pytest.fixture
def picture(photos: Path) -> bytes:
    return encoded(crop(photos, 40, 36), "PNG")


def packed(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def refusal(archive: Path, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError) as caught:
        unpack_images(archive, folder)
    assert archive.name in str(caught.value)
    return str(caught.value)


def test_images_come_out_in_the_order_of_their_names_with_their_labels(tmp_path: Path, picture: bytes) -> None:
    archive = packed(
        tmp_path / "a.zip",
        ("tool/b.png", picture), ("tool/a.PNG", picture), ("readme.txt", b"hello"), ("__MACOSX/tool/._a.png", b"x"),
        method=zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    folder = tmp_path / "out"
    folder.mkdir()
    images = unpack_images(archive, folder)
    assert [(image.label, image.width, image.height) for image in images] == [("tool/a", 40, 36), ("tool/b", 40, 36)]
    assert sorted(path.name for path in folder.iterdir()) == [image.name for image in images]
    assert (folder / images[0].name).read_bytes() == picture


ELSEWHERE = ("../a.png", "/etc/a.png", "a/../../b.png", "C:/a.png", "a\\..\\b.png", "./a.png", "a//b.png", "a\nb.png")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, picture: bytes, name: str) -> None:
    words = refusal(packed(tmp_path / "a.zip", (name, picture)), tmp_path / "out")
    assert "plain and lead downwards" in words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("a.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    assert "link or a device" in refusal(packed(tmp_path / "a.zip", (info, b"/etc/passwd")), tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", "A.PNG"), ("caf\u00e9.png", "cafe\u0301.png")])
def test_two_files_of_one_name_are_refused(tmp_path: Path, picture: bytes, names: tuple[str, str]) -> None:
    archive = packed(tmp_path / "a.zip", *((name, picture) for name in names))
    assert "each name once" in refusal(archive, tmp_path / "out")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", *((f"{i}.txt", b"") for i in range(MAX_ENTRIES + 1)))
    assert f"at most {MAX_ENTRIES} files" in refusal(archive, tmp_path / "out")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    zeros = bytes(32 * 2**20)
    archive = packed(tmp_path / "a.zip", *((f"{i}.png", zeros) for i in range(17)), method=zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 2**20
    assert "unpack to at most 512 MB, got 544 MB" in refusal(archive, tmp_path / "out")


def test_an_entry_that_is_larger_than_it_says_is_refused(tmp_path: Path, picture: bytes) -> None:
    archive = packed(tmp_path / "a.zip", ("a.png", bytes(2**20) + picture), method=zipfile.ZIP_DEFLATED)
    data = bytearray(archive.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(magic) + offset
        data[at : at + 4] = struct.pack("<I", 1000)
    archive.write_bytes(data)
    refusal(archive, tmp_path / "out")


def test_a_directory_of_very_many_entries_is_read_by_the_child_alone(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0) + b"a.png"
    directory = entry * 200_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    archive = tmp_path / "a.zip"
    archive.write_bytes(directory + end)
    assert "at most 256 files, got 200000" in refusal(archive, tmp_path / "out")


def test_locked_and_rare_kinds_of_compression_are_refused(tmp_path: Path, picture: bytes) -> None:
    locked = bytearray(packed(tmp_path / "locked.zip", ("a.png", picture)).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(magic) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    assert "password" in refusal(tmp_path / "locked.zip", tmp_path / "out")
    rare = packed(tmp_path / "rare.zip", ("a.png", picture), method=zipfile.ZIP_LZMA)
    assert "stored or deflated" in refusal(rare, tmp_path / "out")


def test_what_is_no_archive_or_holds_no_image_is_refused(tmp_path: Path, picture: bytes) -> None:
    for name, data in {"text.zip": b"hello", "empty.zip": b"", "cut.zip": b"PK\x03\x04" + bytes(30)}.items():
        (tmp_path / name).write_bytes(data)
        assert "complete zip archive" in refusal(tmp_path / name, tmp_path / "out")
    assert "at least one image" in refusal(packed(tmp_path / "none.zip", ("a.txt", b"x")), tmp_path / "out")
    broken = packed(tmp_path / "broken.zip", ("a.png", picture[:200]))
    assert "cannot be decoded" in refusal(broken, tmp_path / "out")


def test_an_archive_above_the_limit_is_not_opened(tmp_path: Path) -> None:
    archive = tmp_path / "large.zip"
    with archive.open("wb") as file:
        file.truncate(MAX_UPLOAD_BYTES + 1)
    assert "at most 256 MB" in refusal(archive, tmp_path / "out")


def test_an_archive_with_two_runs_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for count, names in ((0, ("a.png",)), (2, ("a/run.json", "b/run.json"))):
        archive = packed(tmp_path / "a.zip", *((name, b"{}") for name in names))
        with pytest.raises(InputError, match=f"one run, a folder with run.json, got {count}"):
            unpack_run(archive, tmp_path / "out")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[]", b"null", b"{", b"\xff\xfe", b'{"input": 3, "candidates": []}'])
def test_a_run_file_that_is_no_run_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"run\.json"):
        unpack_run(packed(tmp_path / "a.zip", ("run.json", text)), tmp_path / "out")


def test_the_child_answers_a_refusal_and_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: bytes
) -> None:
    archive = packed(tmp_path / "a.zip", ("../a.png", picture))
    printed = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["unpacking", "images", str(archive), str(tmp_path)])
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(unpacking, "limit_resources", lambda **_: None)
    unpacking.main()
    assert "plain and lead downwards" in printed.getvalue()
