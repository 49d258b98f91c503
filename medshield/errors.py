"""What can go wrong, each as one line that a person can act on."""


class MedshieldError(Exception):
    """Base of every expected failure.

    The message is one line: the file, what was found, what was expected, what to do.
    It never holds header values, patient names or keys.

    Attributes:
        exit_code: what the process returns when this ends the run.
    """

    exit_code = 1


class InputError(MedshieldError):
    """A usage mistake, or an input or a target that can't be used."""

    exit_code = 2


class Unfinished(InputError):
    """A run can't go on now; what it has done is kept, and `--resume` goes on from there."""


class SourceLost(Unfinished):
    """The whole source is gone while a run is at it, which can go on when it is back."""


class WorkerLost(Unfinished):
    """A process that did a part of the work was killed."""


class MethodError(Unfinished):
    """A method of another package can't be loaded, failed, or returned what no method may."""


class VerdictError(MedshieldError):
    """A bound, a checksum or a verdict failed."""

    exit_code = 4


class RefusedFile(MedshieldError):
    """One image can't be protected faithfully; the rest of the release goes on.

    The message is the `reason` of the manifest: why, and what to do about it.
    """

    exit_code = 3


class RefusedCompanion(RefusedFile):
    """An object that holds no pixels to protect, and yet can't be copied as it is."""


class NotAnImage(MedshieldError):
    """The file is readable but holds no pixels to protect; it is copied as it is."""
