"""The files of a folder, and what is to be done with those that no codec knows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from medshield.dataset.scanned import SourceFile
from medshield.errors import InputError, RefusedFile, SourceLost
from medshield.manifest import CARD_FILES, MANIFEST, OWN_FILES, SUMMARY

SIDECAR_SUFFIXES = frozenset(
    {".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".xml"}
    | {".bval", ".bvec", ".cff"}
    | {".tsv.gz"}  # BIDS's recordings of pulse and breath
)
SIDECAR_NAMES = frozenset({"LICENSE", "LICENCE", "README", "CHANGES", "COPYING", ".BIDSIGNORE"})
FOREIGN_IMAGES = {
    **dict.fromkeys((".bmp", ".gif", ".webp"), "PNG"),
    **dict.fromkeys(
        (".jp2", ".j2k", ".jxl", ".heic", ".avif"), "PNG, or 16-bit PNG if it is deeper"
    ),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".vsi", ".czi", ".lif", ".nd2"), "TIFF, by regions"),
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".mgh", ".mgz"), "NIfTI"),
}
"""Formats of images that are not read, and what to convert them to."""
KNOWN_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".nii", ".hdr", ".img"})

OTHER_RELEASE = "papers of another release; this one gets its own"


def walk(source: Path) -> Iterator[tuple[str, str]]:
    """Every file below `source` with the reason to leave it out, or "" for a readable file.

    Symbolic links to folders are not followed; a link to a file is, if it stays inside.

    Raises:
        InputError: a folder can't be opened, so that nobody knows what is in it.
    """

    def fail(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: the folder can't be opened ({error.strerror}); mend its access "
            "rights, or move it out of the source"
        )

    root = os.path.realpath(source)
    for folder, folders, names in os.walk(source, onerror=fail):
        for name in list(folders):
            path = Path(folder, name)
            if path.is_symlink():
                folders.remove(name)
                yield path.relative_to(source).as_posix(), "a symbolic link to a folder"
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(source).as_posix()
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                yield relative, "a symbolic link that leads out of the source"
            elif not path.is_file():
                yield relative, "neither a file nor a folder"
            else:
                yield relative, ""


def files_of(source: Path) -> dict[str, str]:
    """What `walk` finds; the card of an earlier release is left out, as its other papers are."""
    found = dict(walk(source))
    if MANIFEST in found and SUMMARY in found:
        for name in CARD_FILES:
            if found.get(name) == "":
                found[name] = OTHER_RELEASE
    return found


def refuse_secrets(source: Path, paths: Mapping[str, str]) -> None:
    """See to it that no key, seed or label map of an earlier release is copied into this one.

    Raises:
        InputError: a private folder or a generator lies in the source.
    """
    for path in map(PurePosixPath, paths):
        folder = path.parent
        if path.name in ("config.json", "generator.json") and (
            folder.name.endswith(".private") or (folder / "key").as_posix() in paths
        ):
            raise InputError(
                f"{source / folder}: a private folder or a generator of medshield lies in the "
                "source; move it out, as its key must never be released"
            )


NO_MEMORY = (
    "there is not enough memory to read it; split it into smaller files, or run where there is more"
)


def unreadable(error: OSError) -> str:
    """Why a file is refused that the system does not hand out."""
    return f"can't be read ({error.strerror}); mend its access rights or its disk, or remove it"


def stamp_of(path: Path) -> tuple[int, int] | None:
    """What is another when a file was written to: bytes and time, ns; None if it can't be told."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def stamp_unless(left_out: str, path: Path) -> tuple[int, int] | None:
    """The stamp of a file that `walk` found; of what is left out, which may change, none.

    Args:
        left_out: the reason, if there is one.
        path: the file.
    """
    return None if left_out else stamp_of(path)


def see_unchanged(source: Path, file: SourceFile) -> None:
    """See to it that a file is the one that was scanned; asked once it was read.

    Raises:
        RefusedFile: it was written to.
    """
    if stamp_of(source / file.path) != file.stamp:
        raise RefusedFile("it changed since it was scanned; protect it when nothing writes to it")


def see_source(source: Path) -> None:
    """See to it that a file which can't be read is not one of a source that is gone as a whole.

    Of a network folder that vanished, the empty mount point may be left.

    Raises:
        SourceLost: nothing is there.
    """
    try:
        with os.scandir(source) as entries:
            if next(entries, None) is not None:
                return
    except OSError:
        pass
    raise SourceLost(
        f"{source}: the source can't be read any more; when it is back, run again (protect: with "
        "--resume)"
    )


def suffix_of(path: str) -> str:
    """What a file's name ends with, in lower case and without the dot."""
    return Path(path).suffix.lower().lstrip(".")


def plan_other(path: str, reason: str) -> SourceFile:
    """What is to be done with a file that no codec knows.

    Args:
        path: relative to the source.
        reason: why it is left out, as `walk` found; empty for a readable file.
    """
    name = Path(path)
    suffix = name.suffix.lower()
    if path in OWN_FILES:
        reason = OTHER_RELEASE
    elif name.name.startswith("._"):
        reason = "macOS's notes on another file"
    if reason:
        return SourceFile(path, "omit", reason, suffix.lstrip("."))
    if suffix == ".gz":
        suffix = "".join(name.suffixes[-2:]).lower()
    if suffix in SIDECAR_SUFFIXES or name.stem.upper() in SIDECAR_NAMES:
        return SourceFile(path, "copy", "a sidecar", suffix.lstrip("."))
    plain = suffix.removesuffix(".gz")
    if plain in FOREIGN_IMAGES:
        reason = f"images of this format ({suffix}) are not read; convert it to "
        return SourceFile(path, "refuse", reason + FOREIGN_IMAGES[plain], suffix.lstrip("."))
    if plain in KNOWN_IMAGES:
        lacks = ", nor a .hdr file beside it" if suffix.startswith(".img") else ""
        return SourceFile(
            path,
            "refuse",
            f"named like an image ({suffix}), but not a PNG, JPEG, TIFF, DICOM or NIfTI inside"
            f"{lacks}; convert it, or remove it if it is damaged",
            suffix.lstrip("."),
        )
    return SourceFile(path, "omit", "of unknown kind", suffix.lstrip("."))
