"""`medshield bag`: a finished release as a BagIt bag (RFC 8493), for archives that take bags.

The release stays as it is: the bag is a folder beside it whose payload `data/` is the release. The
bag grows in a folder of another name, gets `bagit.txt`, without which nothing is a bag, as its last
file, and its own name when it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medshield import progress
from medshield.dataset.walk import walk
from medshield.errors import InputError
from medshield.manifest import CHECKSUMS, read_checksums, read_release
from medshield.places import (
    keep_apart,
    locked,
    named,
    refuse_existing,
    sync_folder,
    target_errors,
)
from medshield.text import examples, printable
from medshield.versions import __version__

PAYLOAD = "data"
DECLARATION = "bagit.txt"
INFO = "bag-info.txt"
ALGORITHMS = ("sha256", "sha512")
"""RFC 8493, 2.4: a tool must know both, and should make the second one."""
OWN_LABELS = ("Payload-Oxum", "Bag-Software-Agent")
_AT_A_TIME = 1 << 20
_WAITING = 1000
"""Bytes that are read, and files that wait for a worker, at a time."""
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
"""What a file system says that makes no hard links there."""
_ENCODED = re.compile(r"[%\r\n]")


@dataclass(frozen=True)
class Bag:
    """A finished bag.

    Attributes:
        path: its folder.
        release: what is in it.
        files: of the payload.
        bytes: of the payload.
        linked: whether all files are hard links of those of the release.
    """

    path: Path
    release: Path
    files: int
    bytes: int
    linked: bool

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "bag": str(self.path),
            "release": str(self.release),
            "files": self.files,
            "bytes": self.bytes,
            "linked": self.linked,
        }


def make_bag(
    release: Path, target: Path | None = None, info: Sequence[str] = (), workers: int = 1
) -> Bag:
    """Make a bag of a release, which is read once and compared with its checksums meanwhile.

    Args:
        release: a finished release.
        target: the bag; RELEASE-bag if absent.
        info: lines of `bag-info.txt`, `Label: text`.
        workers: files read at a time.

    Raises:
        InputError: the release is not sound, a line is none, or the target can't be used.
    """
    lines = [_info_line(line) for line in info]
    release = named(release)
    read_release(release)
    sums = read_checksums(release)
    _see_whole(release, sums)
    target = named(target) if target else release.with_name(release.name + "-bag")
    partial = target.with_name(target.name + ".bagging")
    keep_apart(release, (target, partial))
    refuse_existing(target, "bag")
    with target_errors(target, resumable=False):
        partial.mkdir(parents=True, exist_ok=True)
        with locked(partial):
            refuse_existing(target, "bag")  # of a run that was at it until now
            _clear(partial)
            try:
                bag = _filled(release, sums, target, partial, lines, workers)
            except InputError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            os.sync()
            partial.rename(target)
        sync_folder(target.parent)
    return bag


def _see_whole(release: Path, sums: dict[str, str]) -> None:
    """See to it that checksums and folder name the same files, and that a bag can name them.

    Raises:
        InputError: they don't, or it can't.
    """
    there = dict(walk(release))
    odd = [path for path, reason in there.items() if reason]
    wrong = sorted({*odd, *(set(there) ^ ({*sums} | {CHECKSUMS}))})
    if wrong:
        raise InputError(
            f"{release}: {printable(wrong[0])}: in the folder or in {CHECKSUMS}, but not in both; "
            "expected a sound release; `medshield check` says what is wrong"
        )
    if unnamed := [path for path in sums if not _is_text(path)]:
        raise InputError(
            f"{release}: names that are not UTF-8 ({printable(examples(unnamed))}), which no bag "
            "can hold; rename them in the source and protect it again"
        )


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _info_line(line: str) -> str:
    """A line of `bag-info.txt`, as it is to stand there.

    Raises:
        InputError: it has no label, or one that is not for the user to give.
    """
    label, separator, text = line.partition(":")
    if not separator or not label.strip() or not text.strip() or not line.isprintable():
        raise InputError(
            f"--info {printable(line)!r}: expected `Label: text` on one line, such as "
            "`Source-Organization: Example Hospital`"
        )
    if label.strip().lower() in (name.lower() for name in OWN_LABELS):
        raise InputError(f"--info {label.strip()}: is computed; leave it out")
    return f"{label.strip()}: {text.strip()}\n"


def _clear(partial: Path) -> None:
    """Remove what a killed run left of a bag.

    Raises:
        InputError: something else lies there.
    """
    own = {PAYLOAD, DECLARATION, INFO}
    own |= {f"{kind}-{name}.txt" for kind in ("manifest", "tagmanifest") for name in ALGORITHMS}
    if strangers := sorted({path.name for path in partial.iterdir()} - own):
        raise InputError(
            f"{partial}: holds {printable(strangers[0])}, which no unfinished bag does; move it "
            "away, or choose another -o"
        )
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _filled(
    release: Path,
    sums: dict[str, str],
    target: Path,
    partial: Path,
    lines: Sequence[str],
    workers: int,
) -> Bag:
    """Payload and tag files, the declaration last.

    Raises:
        InputError: a file is not what the checksums say.
    """
    payload = partial / PAYLOAD
    payload.mkdir()
    paths = sorted({*sums, CHECKSUMS})
    for folder in sorted({PurePosixPath(path).parent for path in paths}):
        (payload / folder).mkdir(parents=True, exist_ok=True)
    manifests: dict[str, list[str]] = {name: [] for name in ALGORITHMS}
    size, linked = 0, True
    with progress.bar("bagging") as update, closing(_put(release, payload, paths, workers)) as done:
        for number, one in enumerate(done, 1):
            if sums.get(one.path, one.digests["sha256"]) != one.digests["sha256"]:
                raise InputError(
                    f"{release}: {printable(one.path)}: its checksum differs from {CHECKSUMS}; "
                    "expected a sound release; `medshield check` says what is wrong"
                )
            for name in ALGORITHMS:
                line = f"{one.digests[name]}  {PAYLOAD}/{_encoded(one.path)}\n"
                manifests[name].append(line)
            size, linked = size + one.size, linked and one.linked
            update(number, len(paths))
    declaration = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    tags = {f"manifest-{name}.txt": "".join(manifests[name]) for name in ALGORITHMS}
    tags[INFO] = "".join([*lines, *_computed(size, len(paths))])
    tags |= {
        f"tagmanifest-{name}.txt": "".join(
            f"{hashlib.new(name, text.encode()).hexdigest()}  {tag}\n"
            for tag, text in sorted((tags | {DECLARATION: declaration}).items())
        )
        for name in ALGORITHMS
    }
    for tag, text in (*tags.items(), (DECLARATION, declaration)):
        (partial / tag).write_bytes(text.encode())
    return Bag(target, release, len(paths), size, linked)


def _computed(size: int, files: int) -> tuple[str, str]:
    return (
        f"Payload-Oxum: {size}.{files}\n",
        f"Bag-Software-Agent: medshield {__version__}\n",
    )


def _encoded(path: str) -> str:
    """A path as manifests have it: RFC 8493, 2.1.3 encodes line ends and the percent sign."""
    return _ENCODED.sub(lambda found: f"%{ord(found[0]):02X}", path)


@dataclass(frozen=True)
class _Done:
    """A file of the payload.

    Attributes:
        path: relative to the release.
        size: in bytes.
        digests: checksum by algorithm.
        linked: whether it is a hard link.
    """

    path: str
    size: int
    digests: dict[str, str]
    linked: bool


def _put(
    release: Path, payload: Path, paths: Sequence[str], workers: int
) -> Generator[_Done, None, None]:
    """Give every file its place in the payload and read it there, in the order of the paths."""

    def put(path: str) -> _Done:
        linked = _link_or_copy(release / path, payload / path)
        digests = {name: hashlib.new(name) for name in ALGORITHMS}
        size = 0
        with (payload / path).open("rb") as file:
            while part := file.read(_AT_A_TIME):
                size += len(part)
                for digest in digests.values():
                    digest.update(part)
        found = {name: digest.hexdigest() for name, digest in digests.items()}
        return _Done(path, size, found, linked)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), _WAITING):
            yield from pool.map(put, paths[start : start + _WAITING])


def _link_or_copy(source: Path, target: Path) -> bool:
    """Whether the file system made a hard link; it gets a copy where not."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
        return False
    return True
