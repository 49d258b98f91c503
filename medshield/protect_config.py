"""What `protect` and `fit` are asked to do."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.formats.base import DEFAULT_HANDLING, Handling
from medshield.method_names import plugin_facts
from medshield.versions import __version__

OF_SOFTWARE = ("version", "plugin")
"""What a fingerprint holds beside settings."""


@dataclass(frozen=True)
class ProtectConfig:
    """What `protect` and `fit` are asked to do.

    Attributes:
        source: the folder of images; never written to.
        target: the release, or the generator for `fit`; None for the source's name + "-protected".
        method: a name that METHODS has; with a generator, of no meaning.
        epsilon: radius as a fraction of the intensity range; None with a generator, which has one.
        annotations: where labels or masks are.
        intensity: the text of `--intensity`.
        image_size: side of the grid that the perturbation is made on, px; None to choose.
        seed: for a repeatable key; None for a random one.
        generator: apply this one instead of fitting.
        device: auto, cpu or cuda.
        workers: files read and written at a time.
        engine: "local", or "ray" to write files on a cluster.
        ray_address: of the cluster; see `ray_engine.write_on_ray`.
        resume: go on where an interrupted run stopped.
        effort: multiplies the training steps of the method.
        surrogate_weights: FILE or NAME=FILE of ImageNet weights, for a surrogate that starts from
            them; None for none.
        handling: what becomes of thumbnails and signatures.
        uid: "keep" the SOP Instance UIDs of DICOM files, or "new" ones from the key.
        min_ssim: structural similarity that every frame keeps, in (0, 1); None for no such bound.
        card: also write `croissant.json` and `DATACARD.md`.
    """

    source: Path
    target: Path | None = None
    method: str = "robust"
    epsilon: Fraction | None = None
    annotations: AnnotationOptions = field(default_factory=AnnotationOptions)
    intensity: str = "auto"
    image_size: int | None = None
    seed: int | None = None
    generator: Path | None = None
    device: str = "auto"
    workers: int = 2
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    resume: bool = False
    effort: float = 1.0
    surrogate_weights: Path | None = None
    handling: Handling = DEFAULT_HANDLING
    uid: Literal["keep", "new"] = "keep"
    min_ssim: float | None = None
    card: bool = False

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for `--resume`, and what `verify` needs to read the source."""
        annotations = replace(
            self.annotations,
            labels=_absolute(self.annotations.labels, self.source),
            masks=_absolute(self.annotations.masks, self.source),
        )
        settings = asdict(replace(self, annotations=annotations))
        for name in ("workers", "engine", "ray_address", "device", "resume", "target"):
            del settings[name]
        settings["source"] = str(self.source.resolve())
        settings["generator"] = self.generator and str(self.generator.resolve())
        settings["version"] = __version__
        settings["plugin"] = None if self.generator else plugin_facts(self.method).get("plugin")
        return json.loads(json.dumps(settings, default=str))  # type: ignore[no-any-return]

    @classmethod
    def from_fingerprint(
        cls, values: Mapping[str, Any], target: Path, device: str, workers: int
    ) -> ProtectConfig:
        """What a run was asked to do.

        Args:
            values: as `fingerprint` gives them.
            target: the release.
            device: auto, cpu or cuda.
            workers: files read and written at a time.
        """
        known: dict[str, Any] = {n: v for n, v in values.items() if n not in OF_SOFTWARE}
        for name in ("source", "generator", "surrogate_weights"):
            known[name] = known[name] and Path(known[name])
        labels = dict(known["annotations"])
        for name in ("labels", "masks"):
            labels[name] = labels[name] and Path(labels[name])
        known["annotations"] = AnnotationOptions(**labels)
        known["handling"] = Handling(**known["handling"])
        known["epsilon"] = known["epsilon"] and Fraction(known["epsilon"])
        return cls(**known, target=target, device=device, workers=workers, resume=True)


def _absolute(path: Path | None, source: Path) -> Path | None:
    """What an option names, from the working folder or else from the source, wherever we are."""
    candidates = [base / path for base in (Path.cwd(), source.absolute())] if path else []
    return next((Path(os.path.normpath(found)) for found in candidates if found.exists()), path)
