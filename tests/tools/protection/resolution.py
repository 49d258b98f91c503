"""`resolution`: what is left of a delta once a trainer has resized the released files.

The method is fitted at the victims' size, `protect` writes the release at the files' own size,
and both source and release are resized to the victims' size in every usual way. What lies between
the two is compared with the delta that was meant.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medshield.dataset import examples
from medshield.dataset.intensity import range_of
from medshield.dataset.scanned import Scan, SourceFile
from medshield.formats import DecodedImage
from medshield.generator import Generator
from medshield.models import pick_device
from medshield.places import GENERATOR, Places
from medshield.protect_config import ProtectConfig
from medshield.protecting import protect
from tests.tools.protection.correlation import cosines
from tests.tools.protection.study import Options, scanned, source_folder
from tests.tools.tables import table

JPEG_QUALITY = 75
WINDOWS = ((0.2, 0.8), (0.0, 0.6))
"""Narrower ones, in fractions of the declared range; a wider one changes nothing but rounding."""
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}


def by_filter(images: Tensor, size: int, resampling: Image.Resampling) -> Tensor:
    """(n, channels, height, width) in [0, 1] to a square, by Pillow, with antialiasing."""
    planes = [
        np.asarray(Image.fromarray(plane.numpy()).resize((size, size), resampling))
        for plane in images.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(planes)).clamp(0, 1).unflatten(0, images.shape[:2])


def without_antialiasing(images: Tensor, size: int) -> Tensor:
    """Bilinear from the four nearest pixels, however many there are, as OpenCV resizes."""
    return torch.nn.functional.interpolate(images, (size, size), mode="bilinear")


def through_jpeg(images: Tensor) -> Tensor:
    """Images coded and decoded at their own size."""
    coded = []
    for image in (images * 255).round().byte():
        buffer = BytesIO()
        pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
        decoded = np.asarray(Image.open(buffer)).reshape(*image.shape[1:], -1)
        coded.append(torch.from_numpy(decoded.astype(np.float32) / 255).permute(2, 0, 1))
    return torch.stack(coded)


def through_window(images: Tensor, window: tuple[float, float]) -> Tensor:
    """Images cut to a window and rounded to its 256 grey levels, in the range that they had."""
    low, high = window
    levels = ((images.clamp(low, high) - low) / (high - low) * 255).round()
    return low + levels / 255 * (high - low)


def ways() -> dict[str, Callable[[Tensor, int], Tensor]]:
    """Every way of resizing, by the name of its row."""
    found: dict[str, Callable[[Tensor, int], Tensor]] = {
        name: lambda images, size, f=resampling: by_filter(images, size, f)
        for name, resampling in FILTERS.items()
    }
    found["bilinear, no antialiasing"] = without_antialiasing
    for name in ("bilinear", "area"):
        found[f"JPEG {JPEG_QUALITY}, then {name}"] = lambda images, size, f=FILTERS[name]: (
            by_filter(through_jpeg(images), size, f)
        )
    for low, high in WINDOWS:
        found[f"window {low} to {high}, then area"] = lambda images, size, w=(low, high): by_filter(
            through_window(images, w), size, FILTERS["area"]
        )
    return found


@dataclass(frozen=True)
class Release:
    """A release and what it was made of.

    Attributes:
        found: the scan of its source, with the ranges that the release declares.
        folder: the released files.
        files: those that were protected.
        generator: that made their deltas.
    """

    found: Scan
    folder: Path
    files: tuple[SourceFile, ...]
    generator: Generator


def written(method: str, source: Path, target: Path, options: Options) -> Release:
    """Protect a folder as the command line does."""
    config = ProtectConfig(
        source=source,
        target=target,
        method=method,
        epsilon=options.epsilon,
        annotations=options.annotations,
        image_size=options.image_size,
        seed=options.seed,
        workers=options.workers,
        effort=options.effort,
    )
    outcome = protect(config)
    kept = {record.path for record in outcome.records if record.status == "protected"}
    generator = Generator.load(Places(target).private / GENERATOR, pick_device("auto"))
    found = replace(scanned(source, options), ranges=generator.ranges)
    files = tuple(file for file in found.with_action("protect") if file.path in kept)
    return Release(found, target, files, generator)


def kept_of(release: Release) -> dict[str, list[tuple[float, float]]]:
    """By way of resizing, each frame's cosine with the intended delta and its relative length."""
    setting = release.generator.method.setting
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways()}
    for file in release.files:
        image = examples.decoded(release.found.source / file.path, release.found.handling)
        again = examples.decoded(release.folder / file.path, release.found.handling)
        meant = _meant(release, file, image)
        clean, released = (
            torch.from_numpy(one.pixels(range_of(image, release.found.ranges)))
            for one in (image, again)
        )
        for way, resize in ways().items():
            rest = resize(released, setting.size) - resize(clean, setting.size)
            whole = meant.expand_as(rest)
            lengths = rest.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1).clamp_min(1e-12)
            found[way] += zip(cosines(rest, whole).tolist(), lengths.tolist(), strict=True)
    return found


def _meant(release: Release, file: SourceFile, image: DecodedImage) -> Tensor:
    """The delta on the working grid, one channel for grey images."""
    method = release.generator.method
    small = examples.image_tensor(
        image, release.found, method.setting.channels, method.setting.size
    )
    target = examples.target_tensor(file, release.found, method.setting.size)
    delta = method.perturb(small, target, examples.frame_names(file))
    return delta.mean(1, keepdim=True) if image.is_grey else delta


def some_files(source: Path, target: Path, options: Options, upscale: int | None) -> None:
    """Copy up to `limit` images, spread over the folder, with their masks and all tables.

    Args:
        source: a labelled folder.
        target: the folder to write.
        options: with the limit.
        upscale: images and masks are enlarged to this longer side, px, if it is given.
    """
    found = scanned(source, options)
    files = found.with_action("protect")
    places = np.linspace(0, len(files) - 1, min(len(files), options.limit or len(files)))
    chosen = [files[place] for place in np.unique(places.round().astype(int))]
    masks = {file.annotation.mask for file in files if file.annotation} - {None}
    wanted = {file.annotation.mask for file in chosen if file.annotation} - {None}
    tables = {file.path for file in found.with_action("copy")} - masks
    for path in sorted({file.path for file in chosen} | wanted | tables):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if upscale and path not in tables:
            smooth = path not in wanted
            _enlarged(source / path, target / path, upscale, smooth)
        else:
            shutil.copyfile(source / path, target / path)


def _enlarged(source: Path, target: Path, side: int, smooth: bool) -> None:
    with Image.open(source) as image:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        large = image.resize(size, resampling)
        large.save(
            target, format=image.format, **({"quality": 95} if image.format == "JPEG" else {})
        )


def document(options: Options, scratch: Path, upscale: int | None) -> str:
    """The table, and what it is of."""
    source = scratch / "source"
    origin = source_folder(options, scratch, options.limit)
    some_files(origin, source, options, upscale)
    options = replace(options, annotations=replace(options.annotations, allow_missing=True))
    rows = []
    for method in options.methods:
        release = written(method, source, scratch / f"release-{method}", options)
        for way, values in kept_of(release).items():
            cosine, length = np.array(values).T
            rows.append(
                (
                    *(method, way, f"{np.median(cosine):.3f}", f"{np.percentile(cosine, 10):.3f}"),
                    *(f"{np.median(length):.3f}", f"{np.median(cosine * length):.3f}"),
                )
            )
    sides = [max(file.shape[1:3]) for file in release.files]
    header = (
        *("method", "resized by", "cosine, median", "cosine, 10th percentile"),
        *("length, median", "share left, median"),
    )
    return "\n\n".join(
        [
            f"{origin.name}, epsilon {options.epsilon}; {len(release.files)} files of "
            f"{min(sides)} to {max(sides)} px, perturbed and compared at "
            f"{release.generator.method.setting.size} px. Share left is cosine times length.",
            table(header, rows),
        ]
    )
