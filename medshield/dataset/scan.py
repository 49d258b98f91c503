"""Looking at a folder: each file is read once and planned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.annotations import Annotations, annotate
from medshield.dataset.intensity import Constant, choose, parse_intensity, range_name
from medshield.dataset.mask_files import read_foreground
from medshield.dataset.masks import speaks_of_masks
from medshield.dataset.samples import Glance, Samples, Values, glance, sample
from medshield.dataset.scanned import MASK_REASON, Scan, SourceFile
from medshield.dataset.walk import (
    NO_MEMORY,
    files_of,
    plan_other,
    refuse_secrets,
    see_source,
    stamp_unless,
    suffix_of,
    unreadable,
)
from medshield.errors import InputError, NotAnImage, RefusedCompanion, RefusedFile
from medshield.formats import DecodedImage, IntensityRange, recognise
from medshield.formats.base import DEFAULT_HANDLING, Handling, PerFrame, stored_radius
from medshield.formats.dicom.codec import read_tag
from medshield.formats.nifti.files import header_names
from medshield.kept_lines import spooled
from medshield.manifest import OWN_FILES
from medshield.places import SOURCE_ADVICE, require_folder
from medshield.pools import shared_out

CONSTANT = (
    "every pixel of it, and of all other files of its kind, has the same value, so there is no "
    "range to perturb it in; remove it, or give --intensity LOW,HIGH"
)
MOST_CLUSTERS = 10
ALIKE_IN_PLANS = ("format", "kind", "shape", "details", "slopes")
ALIKE_IN_GLANCES = ("kind", "declared", "stored")
"""What many files have alike."""
IMAGES_A_CLUSTER = 20
"""On average, at the least, where there are images enough for two clusters of that size."""


def scan(
    source: Path,
    options: AnnotationOptions,
    *,
    intensity: str = "auto",
    epsilon: Fraction | None = None,
    known_ranges: Mapping[str, IntensityRange] | None = None,
    known_classes: tuple[str, ...] | None = None,
    handling: Handling = DEFAULT_HANDLING,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Scan:
    """Read a folder and plan what to do with each file. Writes nothing.

    Args:
        source: the folder.
        options: where labels or masks are, as far as the user said so.
        intensity: the text of `--intensity`.
        epsilon: with it, files whose radius is below one stored unit are refused.
        known_ranges: ranges that an earlier run declared; they win over what is found here.
        known_classes: classes that an earlier run found; labels are numbered as they were there.
        handling: what to do with thumbnails and signatures; what it does not cover is refused.
        workers: files decoded at a time.
        progress: told the number of files looked at and their total.

    Raises:
        InputError: no such folder, or no file in it.
    """
    parse_intensity(intensity)
    require_folder(source, SOURCE_ADVICE)
    found = dict(sorted(files_of(source).items()))
    refuse_secrets(source, found)
    readable = [path for path, reason in found.items() if not reason]
    if not readable:
        raise InputError(
            f"{source}: the folder is empty; expected images (PNG, JPEG, TIFF, DICOM, NIfTI)"
        )
    looks: dict[str, _Look] = {}
    alike: dict[tuple[str, object], Any] = {}
    samples = Samples()
    outside = {path: why for path in found if (why := _header_outside(path, found))}
    entries = [(path, reason) for path, reason in found.items() if path not in outside]
    looked = shared_out(partial(_look, source, handling), entries, workers)
    with closing(looked):
        for look, values in looked:
            looks[look.plan.path] = look = look.sharing(alike)
            if look.glance:
                samples.add(look.plan.path, look.glance, values)
            if look.plan.action == "refuse":
                see_source(source)
            progress(len(looks), len(entries))
    plans = {path: look.plan for path, look in looks.items()} | {
        path: SourceFile(
            path, "refuse", why, suffix_of(path), stamp=stamp_unless(found[path], source / path)
        )
        for path, why in outside.items()
    }
    others = {path for path, look in looks.items() if not look.is_image}
    images = [
        path
        for path, plan in plans.items()
        if plan.action in ("protect", "refuse") and path not in others
    ]
    problem, annotations = "", None
    try:
        annotations = annotate(source, readable, images, options, read_tag, known_classes)
    except InputError as error:
        problem = str(error)
    masks = {path: plans[path] for path in annotations.masks} if annotations else {}
    for path, mask in masks.items():
        plans[path] = _as_mask(mask)
    for path, look in looks.items():
        if look.labels and path not in masks:
            plans[path] = _as_mask(look.plan)
        elif look.plan.action == "protect" and path not in masks:
            plan = _annotated(look.plan, look.patient, annotations)
            plans[path] = _with_mask(source, plan, masks)
    glances = {path: look.glance for path, look in looks.items() if look.glance}
    glances = {path: seen for path, seen in glances.items() if plans[path].kind}
    known = dict(known_ranges or {})
    try:
        ranges = known | choose(_that_count(glances, plans, known), samples, intensity)
    except Constant:
        if not known:
            raise
        ranges = known

    def settled(number: int, path: str) -> SourceFile:
        file = replace(_with_range(plans[path], glances, ranges), number=number)
        return file if epsilon is None else _with_radius(file, ranges, epsilon)

    files = spooled(
        (settled(number, path) for number, path in enumerate(found)),
        SourceFile.to_line,
        SourceFile.from_line,
    )
    used, images_left = set(), 0
    for file in files:
        used.add(file.kind)
        images_left += file.shape[0] if file.action == "protect" else 0
    ranges = {kind: ranges[kind] for kind in ranges if kind in used}
    labelling = annotations.labelling if annotations else None
    if labelling and not (labelling.labelled or labelling.classes):
        labelling = replace(labelling, classes=_clusters(images_left))
    return Scan(source, files, labelling, ranges, problem, handling)


def _as_mask(plan: SourceFile) -> SourceFile:
    return SourceFile(plan.path, "copy", MASK_REASON, plan.format, stamp=plan.stamp)


def _header_outside(path: str, found: Mapping[str, str]) -> str:
    """Why the header beside an .img file is not read, if it is left out of the source."""
    reasons = (found.get(name.as_posix()) for name in header_names(Path(path)))
    reason = next(filter(None, reasons), None)
    return f"its header file is {reason}; put the file itself there" if reason else ""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at a file told: its plan and, of an image to protect, the rest."""

    plan: SourceFile
    glance: Glance | None = None
    labels: bool = False
    patient: str | None = field(default=None, repr=False)
    is_image: bool = True

    def sharing(self, alike: dict[tuple[str, object], Any]) -> _Look:
        """The same with values that are one object for all files alike, to save memory."""

        def shared(whole: Any, names: Iterable[str]) -> dict[str, Any]:
            values = {name: getattr(whole, name) for name in names}
            return {
                name: alike.setdefault((name, str(value)), value) for name, value in values.items()
            }

        return replace(
            self,
            plan=replace(self.plan, **shared(self.plan, ALIKE_IN_PLANS)),
            glance=self.glance and replace(self.glance, **shared(self.glance, ALIKE_IN_GLANCES)),
        )


def _that_count(
    glances: Mapping[str, Glance],
    plans: Mapping[str, SourceFile],
    known: Mapping[str, IntensityRange],
) -> dict[str, Glance]:
    """The files that ranges are chosen by: those to protect, or all of a kind that has none."""
    done = {name.split(", scale ")[0] for name in known}
    wanted = {path: seen for path, seen in glances.items() if seen.kind not in done}
    protect = {path for path in wanted if plans[path].action == "protect"}
    kinds = {wanted[path].kind for path in protect}
    return {p: seen for p, seen in wanted.items() if p in protect or seen.kind not in kinds}


def _look(source: Path, handling: Handling, entry: tuple[str, str]) -> tuple[_Look, Values]:
    """What a file is, and some of its values if it is an image.

    Args:
        source: the folder.
        handling: see `scan`.
        entry: its path, and the reason to leave it out if there is one.
    """
    stamp = stamp_unless(entry[1], source / entry[0])  # before it is read
    look, values = _looked(source, handling, entry)
    return replace(look, plan=replace(look.plan, stamp=stamp)), values


def _looked(source: Path, handling: Handling, entry: tuple[str, str]) -> tuple[_Look, Values]:
    """The same, without what tells whether it was written to since."""
    path, reason = entry
    none: Values = np.empty(0)
    suffix = suffix_of(path)
    try:
        codec = None if reason or path in OWN_FILES else recognise(source / path)
        if codec is None:
            return _Look(plan_other(path, reason)), none
        suffix = codec.name
        return _image_look(path, suffix, codec.decode(source / path, handling))
    except NotAnImage as found:
        return _Look(SourceFile(path, "copy", str(found), suffix)), none
    except RefusedFile as found:
        plan = SourceFile(path, "refuse", str(found), suffix)
        return _Look(plan, is_image=not isinstance(found, RefusedCompanion)), none
    except OSError as error:
        return _Look(SourceFile(path, "refuse", unreadable(error), suffix)), none
    except MemoryError:
        return _Look(SourceFile(path, "refuse", NO_MEMORY, suffix)), none


def _image_look(path: str, codec: str, image: DecodedImage) -> tuple[_Look, Values]:
    """The same of an image; one too large to hold is read here once more."""
    plan = SourceFile(
        path,
        "protect",
        format=codec,
        kind=image.kind,
        shape=image.stored.shape,
        details=image.details,
        grey=image.is_grey,
        slopes=_slopes(image.slope),
        is_integer=image.is_integer,
        step=image.step,
    )
    values = sample(image)
    seen = glance(image, values, suspect=speaks_of_masks(path))
    return _Look(plan, seen, image.labels, image.patient), values


def _slopes(slope: PerFrame) -> tuple[float, float]:
    sizes = np.abs(slope)
    return float(np.min(sizes)), float(np.max(sizes))


def _with_mask(source: Path, file: SourceFile, masks: Mapping[str, SourceFile]) -> SourceFile:
    """The file, refused where its mask can't be read or has another size."""
    mask = masks.get(file.annotation.mask or "") if file.annotation else None
    if file.action != "protect" or mask is None:
        return file
    try:
        shape = mask.shape[:3] or read_foreground(source / mask.path).shape
    except (RefusedFile, OSError) as error:
        why = unreadable(error) if isinstance(error, OSError) else str(error)
        return replace(file, action="refuse", reason=f"its mask can't be used: {why}")
    if shape == file.shape[:3]:
        return file
    reason = "its mask has another size than the image; resample the mask"
    return replace(file, action="refuse", reason=reason)


def _annotated(
    plan: SourceFile, patient: str | None, annotations: Annotations | None
) -> SourceFile:
    if annotations is None:
        return plan
    annotation = annotations.by_path.get(plan.path)
    if annotation is None or (annotations.task == "segmentation" and annotation.mask is None):
        return replace(
            plan,
            action="refuse",
            reason=f"no {'mask' if annotations.task == 'segmentation' else 'label'}, which its "
            "perturbation depends on; add one",
        )
    if annotation.patient is None and patient:
        annotation = replace(annotation, patient=patient)
    return replace(plan, annotation=annotation)


def _clusters(images: int) -> tuple[str, ...]:
    """Names of as many clusters as so many images to protect (or frames) allow."""
    count = min(MOST_CLUSTERS, max(2, images // IMAGES_A_CLUSTER))
    return tuple(f"cluster {number}" for number in range(1, count + 1))


def _with_range(
    file: SourceFile, glances: Mapping[str, Glance], ranges: Mapping[str, IntensityRange]
) -> SourceFile:
    """The file with the name of its range as its kind; refused where there is none."""
    if file.path not in glances:
        return file
    try:
        return replace(file, kind=range_name(file.kind, glances[file.path].spread, ranges))
    except RefusedFile:
        return replace(file, action="refuse", reason=CONSTANT) if file.action == "protect" else file


def _with_radius(
    file: SourceFile, ranges: dict[str, IntensityRange], epsilon: Fraction
) -> SourceFile:
    if file.action != "protect":
        return file
    largest, smallest = (
        float(np.max(stored_radius(ranges[file.kind], epsilon, slope, file.is_integer)))
        for slope in file.slopes
    )
    if smallest >= file.step or not file.is_integer:  # of every frame, or some would stay clean
        return replace(file, epsilon_stored=largest)
    return replace(file, action="refuse", reason=_too_coarse(file, ranges[file.kind]))


def _too_coarse(file: SourceFile, intensity: IntensityRange) -> str:
    """Why no value of a file can move by epsilon."""
    if math.isinf(file.step):
        return "no two colours of its palette could stand in for each other; convert it to RGB"
    share = file.step * file.slopes[1] / intensity.width
    what = "one stored unit" if file.step == 1 else "the smallest step between colours"
    return (
        f"epsilon is less than {what} of this file, which is {share:.3g} of the intensity range; "
        "raise --eps to at least that, widen --intensity, or convert it to a format with finer "
        "steps"
    )
