"""Tar shards in WebDataset's layout: the files of a sample follow each other and share their name up to the first dot.

Nothing is unpacked. A shard is indexed once (name, place and length of each member; kept beside it where that folder
can be written), and a picture is then read from its place: any sample at any time, which makes resuming exact.
Source of the layout: https://github.com/webdataset/webdataset, README.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from PIL import Image

from minclip.files import replacing
from minclip.images import decode, picture_endings
from minclip.tokenizer import clean

INDEX, VERSION = ".minclip.json", 1
BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = 2**20  # bytes; no name or attribute is longer, so a longer header lies about its length
MAX_PICTURE, MAX_TEXT = 2**28, 2**20  # bytes; longer members are refused, so that no shard can fill the memory

Member = tuple[str, int, int]  # name, place of the content in the shard, length


@dataclass(frozen=True)
class TarPicture:
    """A picture in a tar shard."""

    shard: Path
    name: str
    start: int
    length: int
    credit: str | None = None

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def open(self, size: int) -> Image.Image:
        image = self.load()
        image.thumbnail((size, size))
        return image

    def load(self) -> Image.Image:
        return decode(io.BytesIO(_read(self.shard, self.start, self.length)), self)

    def identity(self) -> tuple[str | int, ...]:
        status = self.shard.stat()
        return str(self.shard.absolute()), status.st_size, status.st_mtime_ns, self.name, self.start, self.length


Pair = tuple[TarPicture, str]


def read_shards(shards: Sequence[Path]) -> tuple[list[Pair], list[str]]:
    """The pictures and captions of all shards, in their order, and what is wrong with other members.

    A caption is the sample's .txt, or "caption" in its .json. A damaged shard is a problem as a whole.
    """
    pairs, problems = [], []
    for shard in shards:
        try:
            members, refused = index_shard(shard)
        except ValueError as error:
            problems.append(str(error))
            continue
        problems += [f"{shard}: {reason}" for reason in refused]
        with shard.open("rb") as file:
            for name, parts in _samples(members).items():
                pair = _read_sample(shard, file, parts)
                if isinstance(pair, str):
                    problems.append(f"{shard}: {name}: {pair}")
                else:
                    pairs.append(pair)
    return pairs, problems


def _samples(members: Sequence[Member]) -> dict[str, dict[str, Member]]:
    """The members of each sample, by their endings in lower case."""
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        path = PurePosixPath(member[0])
        stem, dot, ending = path.name.partition(".")
        if dot and stem:
            samples.setdefault(str(path.parent / stem), {})[f".{ending.lower()}"] = member
    return samples


def _read_sample(shard: Path, file: BinaryIO, parts: dict[str, Member]) -> Pair | str:
    """A sample's picture and caption, or what is wrong with it."""
    picture = next((parts[ending] for ending in parts if ending in picture_endings()), None)
    if picture is None:
        return f"no picture among {', '.join(parts)}"
    if picture[2] > MAX_PICTURE:
        return f"the picture has {picture[2]} bytes, at most {MAX_PICTURE} are read"
    text = parts.get(".txt") or parts.get(".json")
    if text is None:
        return "no caption: neither .txt nor .json"
    if text[2] > MAX_TEXT:
        return f"the caption has {text[2]} bytes, at most {MAX_TEXT} are read"
    file.seek(text[1])
    try:
        content = file.read(text[2]).decode("utf-8-sig")
        caption = content if ".txt" in parts else json.loads(content)["caption"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"the caption cannot be read: {error!r}"
    if not isinstance(caption, str) or not clean(caption):
        return "the caption is empty"
    return TarPicture(shard, *picture), caption.strip()


def _read(shard: Path, start: int, length: int) -> bytes:
    with shard.open("rb") as file:
        file.seek(start)
        return file.read(length)


# --- the index --------------------------------------------------------------------------------------------------------


def index_shard(shard: Path) -> tuple[list[Member], list[str]]:
    """The members of a shard, from the index beside it if the shard has not changed, and why others are refused.

    Raises ValueError, with its name, for a damaged shard.
    """
    status = shard.stat()
    key = {"version": VERSION, "size": status.st_size, "changed": status.st_mtime_ns}
    path = shard.with_name(shard.name + INDEX)
    known = _read_index(path, key)
    if known is None:
        found = list(_list_members(shard))
        known = [m for m in found if not isinstance(m, str)], [m for m in found if isinstance(m, str)]
        _write_index(path, key, known)
    return known


def _read_index(path: Path, key: dict[str, int]) -> tuple[list[Member], list[str]] | None:
    """What is stored, or None unless it is of this very shard and fits into it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        members = [(str(name), int(start), int(length)) for name, start, length in content["members"]]
        refused = [str(reason) for reason in content["refused"]]
        is_known = {name: content[name] for name in key} == key
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    fits = all(start >= 0 and length >= 0 and start + length <= key["size"] for _, start, length in members)
    return (members, refused) if is_known and fits else None


def _write_index(path: Path, key: dict[str, int], known: tuple[list[Member], list[str]]) -> None:
    content: dict[str, Any] = {**key, "members": known[0], "refused": known[1]}
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except OSError:
        return  # The folder is read-only. The shard is then indexed again next time.


class _Headers:
    """A file that gives out no more than a header at a time, whatever length a header claims for the next one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MAX_HEADER:
            raise tarfile.ReadError(f"a header claims {count} bytes")
        return self._file.read(count)


def _list_members(shard: Path) -> Iterator[Member | str]:
    """Yield every file in a shard, or why it is refused."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        try:
            with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore[arg-type]
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them
                    if not member.isdir():
                        yield _refuse(member, size) or (member.name, member.offset_data, member.size)
                    # A negative length would lead back to the same header for ever.
                    if member.size < 0 or member.offset_data + member.size > size:
                        raise ValueError(f"{member.name} is cut short or lies about its length ({member.size} bytes)")
                _check_end(file, archive.offset)  # type: ignore[attr-defined]
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{shard} is not a whole, uncompressed tar file: {error}; fetch or pack it again"
            ) from error


def _refuse(member: tarfile.TarInfo, size: int) -> str | None:
    """Why a member is not used, if it is not."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return f"{member.name!r} points out of the archive"
    if not member.isreg() or member.issparse():
        kinds = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link"}
        return f"{member.name!r} is {kinds.get(member.type, 'a special file')}, and only plain files are read"
    return None


def _check_end(file: BinaryIO, offset: int) -> None:
    """Raise ValueError unless a block of zeros ends the archive; tarfile also takes a damaged header for the end."""
    file.seek(offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise ValueError(f"no member and no end where one must be (byte {offset})")
