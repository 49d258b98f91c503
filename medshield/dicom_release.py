"""What is done to a release's DICOM files once its images are written.

Reports and directories show images in small, and instances name each other; so their part comes
last, when it is known which images are in the release.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath

from medshield import manifest
from medshield.dataset import examples
from medshield.dataset.scanned import Scan, SourceFile
from medshield.dataset.walk import see_source, see_unchanged, unreadable
from medshield.errors import RefusedFile
from medshield.formats.base import READ_ONLY
from medshield.formats.dicom.codec import read_tag
from medshield.formats.dicom.companions import companion, missing
from medshield.formats.dicom.copies import Picture
from medshield.formats.dicom.directory import Reference
from medshield.formats.dicom.identity import Identity, identity_of, uid_of, with_new_identity
from medshield.formats.series import Content, content_of, pieces_of, write_pieces
from medshield.journal import Finished, Journal
from medshield.keys import Key
from medshield.manifest import Record
from medshield.places import Places
from medshield.private import write_private

DICOM = "dicom"
UIDS = "uids.csv"
_SIGNED = (
    "it has a digital signature, and new UIDs would break it; release it without signatures "
    "(--drop-signatures), or with its UIDs (--uid keep)"
)


def is_companion(file: SourceFile) -> bool:
    """Whether a file is a DICOM object that is released beside the images."""
    return file.action == "copy" and file.format == DICOM


class DicomRelease:
    """Finishes the DICOM files of a release that has its images.

    Args:
        found: the plan.
        places: of the release.
        journal: has what is in the release so far, and is told of each file as soon as it is whole.
        workers: files read and written at a time.
    """

    def __init__(
        self,
        found: Scan,
        places: Places,
        journal: Journal,
        workers: int,
    ) -> None:
        self._found = found
        self._places = places
        self._journal = journal
        self._workers = workers

    def companions(self, files: Iterable[SourceFile]) -> Generator[Finished, None, None]:
        """Copy the objects that are no images, their icons made again or removed."""
        with self._pool() as pool:
            for done in pool.map(self._companion, files):
                yield self._journal.add(done)

    def renewed(self, key: Key) -> Generator[Finished, None, None]:
        """Give every instance a new UID, the same wherever it is referenced in the release.

        Which is which goes into the private folder. An instance whose signature would break is
        taken out of the release first, so that nothing refers to a UID that it never gets.
        """
        released = [
            done
            for done in self._journal.finished()
            if done.record.format == DICOM and done.record.sha256
        ]
        with self._pool() as pool:
            known: dict[str, Identity] = {}
            for done, identity in zip(released, pool.map(self._identity, released), strict=True):
                path = done.record.path
                if isinstance(identity, Identity):
                    known[path] = identity
                else:
                    refused = self._refused(done.number, path, identity)
                    yield self._journal.add(refused)
            uids = {
                uid: uid_of(key.secret_for("SOP instance", uid))
                for identity in known.values()
                for uid in identity.uids
            }
            write_private(self._places.private / UIDS, _table(known, uids))
            todo = [done for done in released if done.record.path in known and not done.renewed]
            for done in pool.map(lambda each: self._renewed(each, uids), todo):
                yield self._journal.add(done)

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """An interruption lets the files that are being written come to an end, and no more."""
        pool = ThreadPoolExecutor(self._workers)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)

    def _companion(self, file: SourceFile) -> Finished:
        source = self._found.source / file.path
        folder = PurePosixPath(file.path).parent

        def picture(reference: Reference) -> Picture | None:
            return self._picture(folder, reference)

        def is_released(reference: Reference) -> bool:
            number = self._number(folder, reference)
            return number is not None and self._is_released(number)

        try:
            raw = content_of(source)
            data, notes = companion(raw, self._found.handling, picture)
            left_out = missing(raw, is_released)
            self._write(file.path, data)
            checksum = manifest.sha256(source)
            see_unchanged(self._found.source, file)
        except OSError as error:
            return self._refused(file.number, file.path, unreadable(error))
        except RefusedFile as error:
            return self._refused(file.number, file.path, str(error))
        reason = file.reason
        if left_out:
            reason += f"; it lists {left_out} file(s) that are not in the release"
        record = Record(file.path, "copied", DICOM, reason=reason, notes=notes)
        return Finished(file.number, self._measured(record), checksum)

    def _is_released(self, number: int) -> bool:
        """Whether a file is in the release; of companions, which are at work, by the plan."""
        if is_companion(self._found.files[number]):
            return True
        return number in self._journal and self._journal[number].record.sha256 is not None

    def _picture(self, folder: PurePosixPath, reference: Reference) -> Picture | None:
        number = self._number(folder, reference)
        if number is None or number not in self._journal:
            return None
        record = self._journal[number].record
        if record.status != "protected":
            return None
        clean, protected = (
            examples.decoded(root / record.path, READ_ONLY).stored
            for root in (self._found.source, self._places.partial)
        )
        return Picture(clean, protected)

    def _number(self, folder: PurePosixPath, reference: Reference) -> int | None:
        """The file of the source that a reference leads to: by its name, else by its UID.

        Names in a directory are in capitals, whatever the file system made of them.
        """
        if reference.path:
            named = folder.joinpath(*reference.path).as_posix()
            number = self._by_path.get(named, self._by_name.get(named.casefold()))
            if number is not None:
                return number
        return self._by_uid.get(reference.instance)

    @cached_property
    def _by_path(self) -> dict[str, int]:
        """Made, as the two below, only where a file refers to others."""
        return {file.path: file.number for file in self._found.files}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {path.casefold(): number for path, number in self._by_path.items()}

    @cached_property
    def _by_uid(self) -> dict[str, int]:
        """The released images by SOP Instance UID: read only where something asks for it."""
        images = (
            done
            for done in self._journal.finished()
            if done.record.status == "protected" and done.record.format == DICOM
        )
        source = self._found.source
        found = {read_tag(source / d.record.path, "SOPInstanceUID"): d.number for d in images}
        return {uid: number for uid, number in found.items() if uid}

    def _identity(self, done: Finished) -> Identity | str:
        """Who a file is, by its source; or why it has to leave the release."""
        try:
            identity = identity_of(content_of(self._found.source / done.record.path))
        except OSError as error:
            return unreadable(error)
        except RefusedFile as error:
            return str(error)
        return _SIGNED if identity.signed and not self._found.handling.drop_signatures else identity

    def _renewed(self, done: Finished, uids: Mapping[str, str]) -> Finished:
        record = done.record
        raw = content_of(self._places.partial / record.path)
        derived = record.status == "protected"
        data, notes = with_new_identity(raw, uids, self._found.handling, derived=derived)
        self._write(record.path, data)
        record = self._measured(replace(record, notes=[*record.notes, *notes]))
        return Finished(done.number, record, done.source_checksum, renewed=True)

    def _write(self, path: str, data: Content) -> None:
        temporary = self._places.temporary(path)
        write_pieces(temporary, pieces_of(data))
        self._places.put(temporary, path)

    def _measured(self, record: Record) -> Record:
        path = self._places.partial / record.path
        return replace(record, sha256=manifest.sha256(path), bytes=path.stat().st_size)

    def _refused(self, number: int, path: str, reason: str) -> Finished:
        """A file that is not released after all, and taken out if it was in the release.

        Raises:
            SourceLost: because nothing of the source is left.
        """
        see_source(self._found.source)
        (self._places.partial / path).unlink(missing_ok=True)
        return Finished(number, Record(path, "refused", DICOM, reason=reason))


def _table(known: Mapping[str, Identity], uids: Mapping[str, str]) -> bytes:
    """Which instance is which, as CSV."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "source_uid", "released_uid"])
    for path, identity in known.items():
        rows.writerows([path, uid, uids[uid]] for uid in identity.uids)
    return text.getvalue().encode("utf-8", "surrogateescape")
