"""One damaged file through a codec: refused, exact, or a fault."""

import re
import traceback
from pathlib import Path

import numpy as np

from medshield.audit import auditor_named
from medshield.audit.bound import movement
from medshield.errors import NotAnImage, RefusedFile
from medshield.formats import DecodedImage, codec_named, recognise
from tests.generated import laws

LONGEST_REASON = 600


def judged(path: Path, target: Path, format_name: str, seed: int) -> tuple[str, str]:
    """What came of a file, and why.

    Args:
        path: the file.
        target: where to write; removed before and after.
        format_name: the codec that it is given to, whether that recognises it or not.
        seed: of the change that is asked for.

    Returns:
        ("refused" | "no image" | "exact" | "fault", reason or traceback).
    """
    target.unlink(missing_ok=True)
    try:
        recognise(path)
        return _through(path, target, format_name, np.random.default_rng(seed))
    except RefusedFile as error:
        return _reason("refused", error, path)
    except NotAnImage as error:
        return _reason("no image", error, path)
    except AssertionError as error:
        return "fault", f"wrong: {error}"
    except MemoryError:
        return "fault", f"memory: {_place()}"
    except Exception as error:
        return "fault", f"{type(error).__name__}: {_place()}"
    finally:
        target.unlink(missing_ok=True)


def _through(
    path: Path, target: Path, format_name: str, random: np.random.Generator
) -> tuple[str, str]:
    codec = codec_named(format_name)
    image = codec.decode(path)
    change = laws.change_of(image, random, whole_range=_binds_values(image))
    codec.write(image, change.stored, target, change.largest)
    again = codec.read_back(image, target)
    laws.assert_keeps_the_bound(image, change, again)
    _audit(path, target, format_name, change)
    return "exact", ""


def _binds_values(image: DecodedImage) -> bool:
    """Whether a value can't move alone, so that those outside a narrow range may move too."""
    words = " ".join(image.details.values()).lower()
    return image.kind.startswith("JPEG") or any(
        word in words for word in ("palette", "ybr", "jpeg")
    )


def _audit(path: Path, target: Path, format_name: str, change: laws.Change) -> None:
    """The same by a reading that shares no code with the codec, where that reads the source."""
    auditor = auditor_named(format_name)
    try:
        clean = auditor.read(path)
    except (RefusedFile, NotAnImage):
        return
    released = auditor.read(target)
    assert clean.values.shape == released.values.shape, "audit: another shape"
    faults = movement(clean, released, change.intensity, change.epsilon).faults
    assert not faults, f"audit: {next(iter(faults))}"


def _reason(outcome: str, error: Exception, path: Path) -> tuple[str, str]:
    """A refusal, if it is one line that tells nothing of the header."""
    reason = str(error)
    if "\n" in reason or not 0 < len(reason) < LONGEST_REASON:
        return "fault", f"its reason is no line: {reason[:80]!r}"
    if quoted := quotes(reason, path.read_bytes()):
        return "fault", f"its reason quotes the file: {quoted!r}"
    return outcome, reason


def quotes(text: str, content: bytes) -> str:
    """A value of the generated headers that stands in `text`, or nothing."""
    marks = ("Somebody", "Unknown", "A MAKER", "some words", "a description")
    found = (mark for mark in marks if mark in text and mark.encode() in content)
    return next(found, "")


def _place() -> str:
    """Where the exception that is being handled came from: the last lines in medshield."""
    lines = traceback.format_exc().splitlines()
    found = [
        f"{match[1]}:{match[2]} {match[3]}"
        for line in lines
        if (match := re.search(r'/(\w+/\w+\.py)", line (\d+), in (\S+)', line))
    ]
    return " < ".join(reversed(found[-4:])) + " | " + lines[-1][:120]
