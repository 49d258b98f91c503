"""A release as Croissant metadata, version 1.0, which readers of 1.0 and of 1.1 know.

See https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medshield.manifest import CARD_FILES, MANIFEST, OWN_FILES, SUMMARY, Record
from medshield.release_card.facts import CardFacts, is_url
from medshield.release_card.file_sets import patterns_for, suffix
from medshield.release_card.words import (
    NOT_A_LICENCE,
    NOT_FOR_DIAGNOSIS,
    NOT_FOR_TRAINING,
    STATUS_WORDS,
    description,
    manipulation,
)
from medshield.text import printable

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The specification's JSON-LD context, with the vocabulary of its extension for responsible AI."""

IMAGE_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "tiff": "image/tiff",
    "dicom": "application/dicom",
    "nifti": "https://nifti.nimh.nih.gov/",
}
"""By codec. The specification asks for an address where no media type is registered."""
OTHER_TYPES = {
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "json": "application/json",
    "jsonl": "application/jsonlines",
    "md": "text/markdown",
    "pdf": "application/pdf",
    "toml": "application/toml",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    **dict.fromkeys(("", "txt", "rst", "bval", "bvec"), "text/plain"),
}
"""By suffix, of files that are copied; a table of the system would differ between machines."""
UNKNOWN_TYPE = "application/octet-stream"

FIELDS = {
    "path": ("sc:Text", "Path of the file, relative to the folder of the release."),
    "status": ("sc:Text", "protected, copied, omitted or refused; the last two are not there."),
    "format": ("sc:Text", "Format of the image, or the suffix of another file."),
    "sha256": ("sc:Text", "SHA-256 of the file in the release."),
    "bytes": ("sc:Integer", "Size of the file in the release, in bytes."),
    "epsilon_stored": ("sc:Float", "How far a stored value may have moved, in stored units."),
    "max_abs_delta": ("sc:Float", "How far the one that moved furthest did, in stored units."),
    "psnr": ("sc:Float", "Peak signal-to-noise ratio against the original, dB."),
    "ssim": ("sc:Float", "Mean structural similarity to the original, from -1 to 1."),
    "reason": ("sc:Text", "Why a file is not protected."),
    "notes": ("sc:Text", "What had to change beside the pixels."),
}
"""Type and meaning of each field of the manifest."""


def croissant(
    name: str,
    records: Sequence[Record],
    summary: Mapping[str, Any],
    papers: Mapping[str, tuple[str, int]],
    facts: CardFacts,
) -> dict[str, Any]:
    """The metadata as JSON-LD.

    Args:
        name: of the data set.
        records: of the manifest.
        summary: what `medshield.json` says.
        papers: checksum and bytes of manifest and summary, by name.
        facts: what the owner says; where nothing is said, the property is missing, of which
            validators warn.
    """
    told = {
        "license": facts.license and _license(facts.license),
        "creator": facts.creator and {"@type": "sc:Organization", "name": printable(facts.creator)},
        "url": facts.url,
        "datePublished": facts.published,
        "citeAs": facts.cite_as and printable(facts.cite_as),
        "version": facts.version and printable(facts.version),
    }
    contact = f" Ask for permission: {printable(facts.contact)}." if facts.contact else ""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": description(records, summary),
        **{key: value for key, value in told.items() if value},
        "keywords": ["medical images", "protected against training", "medshield"],
        "rai:dataManipulationProtocol": manipulation(summary),
        "rai:dataUseCases": NOT_FOR_TRAINING + contact,
        "rai:dataLimitations": [NOT_FOR_DIAGNOSIS, NOT_A_LICENCE],
        "distribution": [
            _paper(MANIFEST, "application/jsonlines", "A line of JSON for each file.", papers),
            _paper(SUMMARY, "application/json", "How the release was made.", papers),
            *_file_sets(records),
        ],
        "recordSet": [_record_set()],
    }


def _license(text: str) -> str | dict[str, str]:
    return text if is_url(text) else {"@type": "sc:CreativeWork", "name": printable(text)}


def _paper(
    name: str, encoding: str, meaning: str, papers: Mapping[str, tuple[str, int]]
) -> dict[str, Any]:
    digest, size = papers[name]
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": meaning,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": encoding,
        "sha256": digest,
    }


def _file_sets(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A set for each status and format that is in the release."""
    groups: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.sha256:
            kind = _kind(record)
            groups.setdefault((record.status, kind), []).append(record.path)
    papers = sorted({*OWN_FILES, *CARD_FILES})
    sets = []
    for key in sorted(groups, key=lambda key: (list(STATUS_WORDS).index(key[0]), key[1])):
        status, kind = key
        others = [path for other in groups if other != key for path in groups[other]]
        found = patterns_for(groups[key], [*others, *papers])
        words = STATUS_WORDS[status]
        meaning = f"{words[0].upper()}{words[1:]}: {len(groups[key])} in all."
        if found.others:
            meaning += (
                f" These patterns also match {found.others} other files; `status` and `format` in "
                "the manifest tell them apart."
            )
        name = printable("-".join(filter(None, (status, kind))))
        sets.append(
            {
                "@type": "cr:FileSet",
                "@id": name,
                "name": name,
                "description": meaning,
                "encodingFormat": IMAGE_TYPES.get(kind) or OTHER_TYPES.get(kind, UNKNOWN_TYPE),
                "includes": list(found.globs),
            }
        )
    return sets


def _kind(record: Record) -> str:
    """The codec, or the suffix of what is no image."""
    return (
        record.format if record.format in IMAGE_TYPES else suffix(record.path).lower().lstrip(".")
    )


def _record_set() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "files",
        "name": "files",
        "description": "The files of the release, and what was left out, by the manifest.",
        "key": {"@id": "files/path"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"files/{name}",
                "name": name,
                "description": meaning,
                "dataType": kind,
                **({"repeated": True} if name == "notes" else {}),
                "source": {"fileObject": {"@id": MANIFEST}, "extract": {"column": name}},
            }
            for name, (kind, meaning) in FIELDS.items()
        ],
    }
