"""What programs that are not part of this project say of a file."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from medshield.formats import recognise

SKIPPED_BY_DCMDUMP = ("(7fe0,00", "(fffe,e0", "#")


def said(program: str, path: Path, *options: str) -> list[str]:
    """The lines that a program prints of a file, less the file's own name."""
    done = subprocess.run([program, *options, path], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).replace(bytes(path), b"FILE").splitlines()
    return [line.decode("latin-1").strip() for line in lines]


def new_lines(program: str, source: Path, target: Path, *options: str) -> list[str]:
    """What a program says of the target and does not say of the source."""
    known = set(said(program, source, *options))
    return [line for line in said(program, target, *options) if line not in known]


def dumped(program: str, path: Path, notes: tuple[str, ...] = ()) -> list[str]:
    """dcmdump's lines, less those of Pixel Data, of comments and of the elements in `notes`."""
    skipped = (*SKIPPED_BY_DCMDUMP, *(note[:11].lower() for note in notes))
    lines = said(program, path, "-q", "+L")
    return [line for line in lines if line and not line.startswith(skipped)]


def files_of_format(folder: Path, name: str) -> Iterator[Path]:
    """The files below a folder that a codec of this name reads."""
    for path in sorted(folder.rglob("*")):
        codec = recognise(path) if path.is_file() else None
        if codec is not None and codec.name == name:
            yield path


def tags(program: str, path: Path, *without: str) -> list[str]:
    """exiftool's lines, less what belongs to every file anew: its times, its size, its name."""
    leave_out = [f"--{group}" for group in ("System:all", "ExifTool:all", *without)]
    return said(program, path, "-a", "-u", "-G1", "-s", "-all", *leave_out)
