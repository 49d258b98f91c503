"""dcmdump, dciodvfy, exiftool, and the decoders of dcmtk and gdcm, before and after."""

import subprocess

import numpy as np
import pydicom
import pytest

from medshield.errors import NotAnImage, RefusedFile
from tests.dicom_forms import FORMS
from tests.external.programs import dumped, files_of_format, new_lines, tags
from tests.tools.readers import reading
from tests.tools.trial import protect

pytestmark = pytest.mark.external
PIXELS = ("DICOM:PixelData", "DICOM:StartOfItem", "DICOM:PixelDataGroupLength")
"""What exiftool says of the pixels: the coded frames' lengths, and that of their group."""
DECODERS = {
    "RLE Lossless": ("dcmdrle",),
    "JPEG Lossless": ("dcmdjpeg",),
    "JPEG-LS": ("dcmdjpls",),
    "JPEG 2000": ("gdcmconv", "--raw"),
    "Deflated": ("dcmconv", "+te"),
    "Explicit VR Big": ("dcmconv", "+te"),
    "Implicit": ("dcmconv", "+te"),
    "Explicit VR Little": ("gdcmconv", "--raw"),
}


@pytest.fixture(params=FORMS)
def pair(request, tmp_path):
    """A generated file, its protected one, and what was made."""
    source, target = FORMS[request.param](tmp_path / "source.dcm"), tmp_path / "target.dcm"
    return source, target, protect(source, target)


def test_dcmdump_prints_the_same_elements(pair, program):
    source, target, made = pair
    before = dumped(program("dcmdump"), source, made.notes)
    assert len(before) > 20
    assert before == dumped(program("dcmdump"), target, made.notes)


def test_dciodvfy_finds_nothing_new(pair, program):
    source, target, made = pair
    if made.image.details["transfer syntax"].startswith("Deflated"):
        pytest.skip("dciodvfy does not inflate")
    assert new_lines(program("dciodvfy"), source, target) == []


def is_of_another_syntax(made):
    """Whether a lossy coding became Explicit VR Little Endian."""
    return any(note.startswith("(0002,0010)") for note in made.notes)


def test_exiftool_sees_the_same_tags(pair, program):
    source, target, made = pair
    if is_of_another_syntax(made):
        pytest.skip("a lossy source becomes a file of another syntax, which dcmdump compares")
    before = tags(program("exiftool"), source, *PIXELS)
    assert len(before) > 20
    assert before == tags(program("exiftool"), target, *PIXELS)


def seen_by_another(program, path, plain):
    """The stored values as dcmtk or gdcm decodes them; None where neither does."""
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
    command = next((c for start, c in DECODERS.items() if syntax.startswith(start)), None)
    if command is None:
        return None
    name, *options = command
    done = subprocess.run(
        [program(name), *options, path, plain], capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        return None
    return pydicom.pixels.pixel_array(plain, raw=True)


def assert_seen_alike(program, path, folder):
    """Whether another decoder was asked; it has to see what pydicom sees."""
    plain = folder / "plain.dcm"
    plain.unlink(missing_ok=True)
    seen = seen_by_another(program, path, plain)
    if seen is None:
        return False
    expected = reading(path).views["stored"]()
    assert np.array_equal(seen.reshape(expected.shape), expected), path
    return True


def test_another_decoder_sees_the_same_pixels(pair, program, tmp_path):
    _, target, made = pair
    asked = assert_seen_alike(program, target, tmp_path)
    assert asked or "High-Throughput" in made.image.details["transfer syntax"]


@pytest.mark.real_data
def test_another_decoder_sees_the_same_pixels_of_public_files(real_data, program, tmp_path):
    asked = 0
    for path in files_of_format(real_data / "dicom-odd", "dicom"):
        target = tmp_path / "target.dcm"
        target.unlink(missing_ok=True)
        try:
            protect(path, target)
        except (RefusedFile, NotAnImage):
            continue
        asked += assert_seen_alike(program, target, tmp_path)
    assert asked > 100


@pytest.mark.real_data
def test_exiftool_sees_the_same_tags_of_public_files(real_data, program, tmp_path):
    seen = set()
    for path in files_of_format(real_data / "dicom-odd", "dicom"):
        target = tmp_path / "target.dcm"
        target.unlink(missing_ok=True)
        try:
            made = protect(path, target)
        except (RefusedFile, NotAnImage):
            continue
        form = (path.parts[-2], made.image.details["transfer syntax"], made.image.stored.shape[-1])
        if form in seen or is_of_another_syntax(made):
            continue  # the program takes its time; one of each kind will do
        seen.add(form)
        before, after = (tags(program("exiftool"), file, *PIXELS) for file in (path, target))
        assert before == after, path
    assert len(seen) > 10
