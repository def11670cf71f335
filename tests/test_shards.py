import io
import json
import os
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from minclip import data
from minclip.data import shards

PREPROCESS = data.Preprocess(8)


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 10), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content) if content else None)


def write_shard(path: Path, samples: int = 3) -> Path:
    with tarfile.open(path, "w") as archive:
        for i in range(samples):
            add(archive, f"{i:05}.png", png(i))
            add(archive, f"{i:05}.txt", f"shade {i}".encode())
    return path


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_samples_are_read_in_any_order(tmp_path):
    write_shard(tmp_path / "a.tar")
    pairs, problems = shards.read_shards([tmp_path / "a.tar"])
    assert problems == []
    assert [caption for _, caption in pairs] == ["shade 0", "shade 1", "shade 2"]
    for i in (2, 0, 1):
        assert pairs[i][0].load().getpixel((0, 0)) == (i, 0, 0)
    assert str(pairs[1][0]) == f"{tmp_path / 'a.tar'}:00001.png"


def test_a_shard_is_indexed_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    shard = write_shard(tmp_path / "a.tar")
    first = shards.index_shard(shard)
    listed = []
    monkeypatch.setattr(shards, "_list_members", lambda path: listed.append(path) or iter(()))
    assert shards.index_shard(shard) == first
    assert listed == []
    os.utime(shard, (1, 1))
    shards.index_shard(shard)
    assert listed == [shard]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.update(members=[["00000.png", 0, 10**12]]),
        lambda content: content.update(members=[["00000.png", -5, 3]]),
        lambda content: content.update(members="none"),
        lambda content: content.update(version=0),
        lambda content: content.pop("refused"),
    ],
)
def test_an_index_that_lies_is_not_believed(tmp_path, spoil):
    shard = write_shard(tmp_path / "a.tar")
    first = shards.index_shard(shard)
    path = tmp_path / ("a.tar" + shards.INDEX)
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    assert shards.index_shard(shard) == first


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shards, "replacing", refuse)
    assert len(shards.read_shards([write_shard(tmp_path / "a.tar")])[0]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_incomplete_samples_are_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "dir/1.png", png())
        add(archive, "dir/2.txt", b"no picture")
        add(archive, "dir/3.png", png())
        add(archive, "dir/3.txt", b"  \n")
        add(archive, "dir/4.png", png())
        add(archive, "dir/4.json", b"{")
        add(archive, "dir/5.png", png())
        add(archive, "dir/5.json", b'{"caption": null}')
        add(archive, "dir/6.PNG", png())
        add(archive, "dir/6.txt", "ein Schaf".encode("utf-16"))
        add(archive, "dir/7.x.png", png())
    pairs, problems = shards.read_shards([tmp_path / "a.tar"])
    assert pairs == []
    assert len(problems) == 7
    reasons = ["no caption", "no picture", "empty", "cannot be read", "empty", "cannot be read", "no picture"]
    for i, reason in enumerate(reasons, start=1):
        assert any(f"dir/{i}: " in problem and reason in problem for problem in problems), (i, problems)


# --- shards that are made to do harm ----------------------------------------------------------------------------------


def outside(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        add(archive, "../escaped.png", png())
        add(archive, "../escaped.txt", b"outside")


def absolute(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        add(archive, str(path.parent / "escaped.png"), png())


def symlink(path: Path) -> None:
    (path.parent / "secret.txt").write_text("secret")
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", png())
        add(archive, "1.txt", type=tarfile.SYMTYPE, linkname=str(path.parent / "secret.txt"))


def hard_link(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", png())
        add(archive, "1.txt", type=tarfile.LNKTYPE, linkname="1.png")


def device(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)  # /dev/zero


def bomb(path: Path) -> None:
    """50,000 × 50,000 pixels in a kilobyte."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))))
        add(archive, "1.txt", b"a bomb")


def set_size(path: Path, size: int, kind: bytes = tarfile.REGTYPE) -> None:
    """Let the first header of a shard claim another length, with a right checksum."""
    content = bytearray(path.read_bytes())
    header = tarfile.TarInfo.frombuf(bytes(content[:512]), "utf-8", "strict")
    header.size, header.type = size, kind
    content[:512] = header.tobuf(tarfile.GNU_FORMAT)[:512]
    path.write_bytes(content)


def too_long(path: Path) -> None:
    set_size(write_shard(path), 10**12)


def too_short(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", png() + bytes(range(256)) * 8)
        add(archive, "1.txt", b"shade")
    set_size(path, 3)


def negative(path: Path) -> None:
    """tarfile goes back to the same header for ever (CVE-2025-8194)."""
    set_size(write_shard(path), -512)


def long_name(path: Path) -> None:
    """A GNU header whose name has 8 GB."""
    set_size(write_shard(path), 8 * 2**30, tarfile.GNUTYPE_LONGNAME)


def negative_name(path: Path) -> None:
    set_size(write_shard(path), -1024, tarfile.GNUTYPE_LONGNAME)


def long_attributes(path: Path) -> None:
    set_size(write_shard(path), 8 * 2**30, tarfile.XHDTYPE)


def truncated(path: Path) -> None:
    write_shard(path)
    path.write_bytes(path.read_bytes()[:2048])


def in_the_middle(path: Path) -> None:
    """A damaged header, which tarfile takes for the end."""
    write_shard(path)
    content = bytearray(path.read_bytes())
    content[2048 + 148 : 2048 + 156] = b"0000000\0"  # the checksum of the third header
    path.write_bytes(content)


def compressed(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "1.png", png())


def text(path: Path) -> None:
    path.write_text("this is not a tar file" * 100)


HARMS: dict[Callable[[Path], None], str] = {
    outside: "points out of the archive",
    absolute: "points out of the archive",
    symlink: "is a symbolic link",
    hard_link: "is a hard link",
    device: "is a special file",
    bomb: "Image size .2500000000 pixels. exceeds limit",
    too_long: "cut short or lies about its length .1000000000000 bytes",
    too_short: "no member and no end where one must be",
    negative: "lies about its length",
    long_name: "claims 8589934592 bytes",
    negative_name: "claims -1024 bytes",
    long_attributes: "claims 8589934592 bytes",
    truncated: "no whole|no member|unexpected end",
    in_the_middle: "no member and no end where one must be",
    compressed: "is not a whole, uncompressed tar file",
    text: "is not a whole, uncompressed tar file",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_harm_is_refused_by_name_in_little_memory_and_nothing_is_written_outside(tmp_path, harm):
    folder = tmp_path / "data"
    folder.mkdir()
    harm(folder / "a.tar")
    before = everything(tmp_path)
    tracemalloc.start()
    with pytest.raises(ValueError, match=HARMS[harm]) as caught:
        data.load_folder(folder, PREPROCESS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a.tar" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    assert peak < 20e6
    written = everything(tmp_path).keys() - before.keys()
    assert written <= {folder / ("a.tar" + shards.INDEX)}


def test_a_damaged_shard_is_left_out_as_a_whole(tmp_path):
    write_shard(tmp_path / "good.tar")
    in_the_middle(tmp_path / "worse.tar")
    pairs, problems = data.load_folder(tmp_path, PREPROCESS, skip_bad=True)
    assert len(pairs) == 3
    assert len(problems) == 1


def test_members_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_PICTURE", 10)
    with pytest.raises(ValueError, match=r"the picture has .* bytes, at most 10 are read"):
        data.load_folder(write_shard(tmp_path / "a.tar", 1), PREPROCESS)
    monkeypatch.setattr(shards, "MAX_PICTURE", 1000)
    monkeypatch.setattr(shards, "MAX_TEXT", 3)
    with pytest.raises(ValueError, match="the caption has 7 bytes, at most 3 are read"):
        data.load_folder(tmp_path / "a.tar", PREPROCESS)
