"""The laws of the NIfTI codec: identity, bound, nothing but voxels; and what it refuses."""

import gzip
import struct
import subprocess
from fractions import Fraction

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medshield.errors import RefusedFile
from medshield.formats.base import IntensityRange
from medshield.formats.nifti import NiftiCodec, background_value

CODEC = NiftiCodec()
INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
CODES = {"u1": 2, "i1": 256, "u2": 512, "i2": 4, "u4": 768, "i4": 8, "u8": 1280, "i8": 1024}
CODES |= {"f4": 16, "f8": 64}
fast = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def header(shape, code, order="<", version=1, slope=0.0, intercept=0.0, offset=None, intent=0):
    """A header made of nothing but its fields' places in nifti1.h and nifti2.h."""
    dim = (len(shape), *shape, *[1] * (7 - len(shape)))
    if version == 1:
        block = bytearray(348)
        struct.pack_into(order + "i", block, 0, 348)
        struct.pack_into(order + "8h", block, 40, *dim)
        struct.pack_into(order + "hh", block, 68, intent, code)
        struct.pack_into(order + "3f", block, 108, offset or 352, slope, intercept)
        struct.pack_into("15s", block, 148, b"someone's brain")
        block[344:348] = b"n+1\0"
    else:
        block = bytearray(540)
        struct.pack_into(order + "i8sh", block, 0, 540, b"n+2\0\r\n\x1a\n", code)
        struct.pack_into(order + "8q", block, 16, *dim)
        struct.pack_into(order + "qdd", block, 168, offset or 544, slope, intercept)
        struct.pack_into(order + "i", block, 504, intent)
    return bytes(block)


def nifti(volume, order="<", version=1, extension=None, tail=b"", **fields):
    """A single file of volume[x, y, z, ...]."""
    kind = volume.dtype.str[1:]
    extra = b"\0\0\0\0"
    if extension is not None:
        code, body = extension
        body += bytes(-(len(body) + 8) % 16)
        extra = b"\1\0\0\0" + struct.pack(order + "ii", len(body) + 8, code) + body
    fields.setdefault("offset", (348 if version == 1 else 540) + len(extra))
    voxels = volume.astype(volume.dtype.newbyteorder(order)).tobytes(order="F")
    return header(volume.shape, CODES[kind], order, version, **fields) + extra + voxels + tail


def save(tmp_path, data, name="source.nii"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def moved(image, radius, seed=0):
    """Every movable voxel moved by plus or minus `radius`, in stored units."""
    finite = image.stored[np.isfinite(image.stored)].astype(float)
    values = finite * image.slope + image.intercept if finite.size else np.zeros(1)
    room = (radius + 1) * abs(image.slope)
    intensity = IntensityRange(values.min() - room, values.max() + room, "all of it and more")
    epsilon = Fraction(radius) * abs(Fraction(image.slope)) / Fraction(intensity.width)
    shape = image.stored.transpose(0, 3, 1, 2).shape
    steps = np.random.default_rng(seed).choice([-radius, radius], size=shape)
    return image.moved(steps * image.slope / intensity.width, intensity, epsilon)


def assert_within(released, original, radius):
    finite = np.isfinite(original)
    assert np.array_equal(released[~finite], original[~finite], equal_nan=True)
    distance = np.abs(released[finite].astype(float) - original[finite].astype(float))
    assert distance.max(initial=0) <= radius


def assert_readers_see(path, wanted, source):
    """What nibabel reads has the wanted voxels and the source's header and extensions."""
    before, after = nibabel.load(source), nibabel.load(path)
    assert before.header == after.header
    assert before.header.extensions == after.header.extensions
    raw = np.asarray(after.dataobj.get_unscaled())
    assert raw.dtype == before.header.get_data_dtype()
    planes = raw.reshape(*(*raw.shape, 1, 1)[:2], -1, order="F")
    assert np.array_equal(planes.transpose(2, 1, 0)[..., np.newaxis], wanted, equal_nan=True)


@st.composite
def volumes(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from([*INTEGERS, "f4", "f8"]))
    if kind in INTEGERS:
        limits = np.iinfo(kind)
        low, high = max(limits.min, -(2**53)), min(limits.max, 2**53)
        if draw(st.booleans()):
            low, high = max(low, -2), 4
        return generator.integers(low, high, shape, endpoint=True, dtype=kind)
    volume = generator.normal(size=shape).astype(kind) * draw(st.sampled_from([1e-3, 1, 1e4]))
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0])
    return np.where(generator.random(shape) < 0.3, generator.choice(odd, shape), volume).astype(
        kind
    )


@fast
@given(
    volumes(),
    st.sampled_from("<>"),
    st.sampled_from([1, 2]),
    st.sampled_from(["source.nii", "source.nii.gz"]),
    st.sampled_from([(0.0, 5.0), (np.nan, 0.0), (1.0, 0.0), (0.5, -10.0), (-2.0, 7.0)]),
    st.sampled_from([None, (6, b"a comment"), (2, b"a DICOM element")]),
    st.integers(0, 4),
)
def test_laws_hold_for_any_volume(tmp_path, volume, order, version, name, scale, extension, radius):
    slope, intercept = scale
    fields = {"slope": slope, "intercept": intercept, "extension": extension, "tail": b"tail"}
    data = nifti(volume, order, version, **fields)
    source, target = save(tmp_path, data, name), tmp_path / f"target{name[6:]}"
    assert CODEC.recognises(source.read_bytes()[:512], source)
    image = CODEC.decode(source)
    assert (image.slope, image.intercept) == (
        (slope, intercept) if slope and np.isfinite(slope) else (1, 0)
    )

    CODEC.write(image, image.stored, target, 0)
    assert target.read_bytes() == source.read_bytes()
    assert_readers_see(target, image.stored, source)

    CODEC.write(image, moved(image, radius, volume.size), target, radius)
    released = CODEC.decode(target).stored
    assert_within(released, image.stored, radius)
    if image.frozen is not None:
        kept = image.frozen
        assert released[kept].tobytes() == image.stored[kept].tobytes()
    background = image.container.background
    if background is not None:
        assert np.array_equal(released == background, image.stored == background)
    assert_readers_see(target, released, source)
    assert CODEC.differences(source, target) == []
    written = target.read_bytes()
    content = gzip.decompress(written) if name.endswith(".gz") else written
    start = len(data) - volume.nbytes - len(b"tail")
    assert (len(content), content[:start]) == (len(data), data[:start])
    assert content.endswith(b"tail")


def test_frames_are_planes_of_constant_z_and_t(tmp_path):
    volume = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    stored = CODEC.decode(save(tmp_path, nifti(volume))).stored
    assert stored.shape == (20, 3, 2, 1)
    for z in range(4):
        for t in range(5):
            assert np.array_equal(stored[z + 4 * t, :, :, 0], volume[:, :, z, t].T)


@pytest.mark.parametrize("kind", ["u1", "i2", "f4", "f8"])
def test_wanted_voxels_are_written_exactly(tmp_path, kind):
    volume = np.random.default_rng(0).integers(20, 100, (4, 5, 6)).astype(kind)
    image = CODEC.decode(save(tmp_path, nifti(volume, ">")))
    wanted = moved(image, 3)
    CODEC.write(image, wanted, tmp_path / "target.nii", 3)
    assert np.array_equal(CODEC.decode(tmp_path / "target.nii").stored, wanted)
    assert (np.abs(wanted.astype(float) - image.stored) == 3).all()


def test_background_stays_and_nothing_joins_it(tmp_path):
    volume = np.random.default_rng(0).integers(1, 4, (8, 8, 8)).astype(np.uint8)
    volume[:4] = 0
    image = CODEC.decode(save(tmp_path, nifti(volume)))
    assert image.lowest == 1
    wanted = moved(image, 3)
    assert np.array_equal(wanted == 0, image.stored == 0)
    assert (wanted != image.stored).any()


def test_a_zero_background_amid_negative_values_stays_too(tmp_path):
    volume = np.random.default_rng(0).integers(-3, 4, (8, 8, 8)).astype(np.int16)
    volume[:4] = 0
    image = CODEC.decode(save(tmp_path, nifti(volume)))
    wanted = moved(image, 3)
    assert ((wanted == 0) & (image.stored != 0)).any()
    CODEC.write(image, wanted, tmp_path / "target.nii", 3)
    released = CODEC.decode(tmp_path / "target.nii").stored
    assert np.array_equal(released == 0, image.stored == 0)
    assert np.abs(released - image.stored).max() <= 3


def test_background_value():
    assert background_value(np.array([0] * 10 + list(range(1, 91)))) == 0
    assert background_value(np.array([0] * 9 + list(range(1, 92)))) is None
    assert background_value(np.array([-1024.0] * 5 + [3, 4, np.nan])) == -1024
    assert background_value(np.array([1, 5, 5, 5])) is None  # saturated, not empty
    assert background_value(np.array([0, 0, 7, 7, 7])) is None
    assert background_value(np.array([-1, 0, 0, 0, 2])) == 0
    assert background_value(np.full(3, np.nan)) is None


def test_describes_itself(tmp_path):
    image = CODEC.decode(save(tmp_path, nifti(np.ones((2, 2), np.int16), ">", 2), "a.nii.gz"))
    assert (image.kind, image.declared, image.patient) == ("NIfTI", (), None)
    assert image.details == {
        "version": "NIfTI-2",
        "data type": "int16",
        "byte order": "big",
        "compression": "gzip",
    }


def test_gzip_is_repeatable_and_nameless(tmp_path):
    image = CODEC.decode(save(tmp_path, nifti(np.arange(8, dtype=np.int16)), "a.nii.gz"))
    for name in ("one.nii.gz", "two.nii.gz"):
        CODEC.write(image, image.stored + np.int16(1), tmp_path / name, 1)
    one = (tmp_path / "one.nii.gz").read_bytes()
    assert one == (tmp_path / "two.nii.gz").read_bytes()
    assert one[3:8] == bytes(5)  # no flags, so no name; no time


VOLUME = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
WHOLE = nifti(VOLUME)


def test_recognises_headers_not_names(tmp_path):
    for order in "<>":
        for version in (1, 2):
            head = nifti(VOLUME, order, version)[:512]
            assert CODEC.recognises(head, tmp_path / "volume.dat")
    assert CODEC.recognises(gzip.compress(WHOLE)[:512], tmp_path / "a.NII.GZ")
    assert not CODEC.recognises(gzip.compress(WHOLE)[:512], tmp_path / "a.nii")
    assert not CODEC.recognises(gzip.compress(b"text" * 200)[:512], tmp_path / "a.nii.gz")
    assert not CODEC.recognises(WHOLE[:340] + b"none" + bytes(8), tmp_path / "a.nii")
    assert not CODEC.recognises(b"", tmp_path / "a.nii.gz")


@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_both_halves_of_a_pair_are_refused_by_name(tmp_path, zipped):
    half = save(tmp_path, WHOLE[:344] + b"ni1\0", "scan.hdr" + zipped)
    voxels = save(tmp_path, WHOLE[352:], "scan.img" + zipped)
    for path in (half, voxels):
        assert CODEC.recognises(path.read_bytes()[:512], path)
    with pytest.raises(RefusedFile, match="pair"):
        CODEC.decode(half)
    with pytest.raises(RefusedFile, match="pair"):
        CODEC.decode(voxels)
    half.unlink()
    assert not CODEC.recognises(voxels.read_bytes()[:512], voxels)
    assert not CODEC.recognises(b"", tmp_path / "scan.IMG")


REFUSED = {
    "RGB": (header((1,), 128) + bytes(7), "RGB voxels"),
    "complex": (header((1,), 32) + bytes(12), "complex64"),
    "float128": (header((1,), 1536) + bytes(20), "float128"),
    "unknown type": (header((1,), 77) + bytes(20), "unknown voxels"),
    "CIFTI intent": (nifti(VOLUME, version=2, intent=3001), "CIFTI"),
    "CIFTI extension": (nifti(VOLUME, ">", 2, extension=(32, b"<CIFTI/>")), "CIFTI"),
    "no lengths": (header((), 4) + bytes(40), "dimensions"),
    "negative length": (header((2, -3), 4) + bytes(40), "dimensions"),
    "offset": (nifti(VOLUME, offset=100), "within its header"),
    "offset NaN": (nifti(VOLUME, offset=np.nan), "within its header"),
    "offset far": (nifti(VOLUME, offset=4000), "its header speaks of"),
    "short": (WHOLE[:-1], "its header speaks of"),
    "header": (WHOLE[:350], "within its header"),
    "intercept": (nifti(VOLUME, slope=1.0, intercept=np.nan), "scl_inter"),
    "large": (nifti(np.array([2**60])), "beyond"),
    "other": (b"text" * 200, "no NIfTI-1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_by_name(tmp_path, case):
    data, reason = REFUSED[case]
    with pytest.raises(RefusedFile, match=reason) as caught:
        CODEC.decode(save(tmp_path, data))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_refuses_every_truncation(tmp_path):
    zipped = gzip.compress(WHOLE)
    for data in (WHOLE, zipped):
        for length in range(len(data)):
            path = tmp_path / "short.nii.gz"
            path.write_bytes(data[:length])
            with pytest.raises(RefusedFile):
                CODEC.decode(path)
    path.write_bytes(zipped[:-8] + bytes(8))
    with pytest.raises(RefusedFile, match="gzip"):
        CODEC.decode(path)


def test_differences_name_the_place(tmp_path):
    source = save(tmp_path, nifti(VOLUME, extension=(6, b"comment"), tail=b"tail"))

    def compare(change, name="other.nii"):
        data = bytearray(source.read_bytes())
        change(data)
        return CODEC.differences(source, save(tmp_path, bytes(data), name))

    def put(place, value):
        return lambda data: data.__setitem__(place, value)

    start = len(WHOLE) - VOLUME.nbytes + 16
    assert compare(put(start, 99)) == []
    assert compare(put(112, 99)) == ["header byte 112: differs"]
    assert compare(put(360, 98)) == ["extensions: differ"]
    assert compare(put(-1, 99)) == ["bytes after the voxels: differ"]
    assert compare(lambda data: data.append(0)) == ["bytes after the voxels: differ"]
    assert compare(lambda data: data.__delitem__(slice(start + 3, None))) == ["voxels: missing"]
    assert compare(lambda data: None, "other.nii.gz") == ["compression: differs"]
    with pytest.raises(RefusedFile, match="can't be read"):
        CODEC.differences(save(tmp_path, b"text", "text"), source)


def assert_protectable(source, target):
    """The laws on one real file: voxels exact, the rest untouched."""
    image = CODEC.decode(source)
    radius = 3 if image.is_integer else 0.01 * float(np.nanmax(image.stored))
    wanted = moved(image, radius)
    CODEC.write(image, wanted, target, radius)
    assert CODEC.decode(target).stored.tobytes() == wanted.tobytes()
    assert (wanted != image.stored).any()
    assert_within(wanted, image.stored, radius)
    assert_readers_see(target, wanted, source)
    assert CODEC.differences(source, target) == []


@pytest.mark.real_data
def test_files_of_nibabel(real_data, tmp_path):
    folder = real_data / "nifti-odd" / "nibabel" / "nibabel" / "tests" / "data"
    files = sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")])
    assert len(files) == 8
    for path in files:
        if path.name == "row_major.dconn.nii":
            with pytest.raises(RefusedFile, match="CIFTI"):
                CODEC.decode(path)
        else:
            assert_protectable(path, tmp_path / path.name)


@pytest.mark.real_data
def test_hippocampus_volumes(real_data, tmp_path):
    files = sorted((real_data / "hippocampus-nifti" / "images").glob("*.nii.gz"))[::4]
    assert len(files) == 15
    for path in files:
        assert_protectable(path, tmp_path / path.name)


@pytest.mark.external
@pytest.mark.parametrize("name", ["one.nii", "one.nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_nifti_tool_sees_no_other_header(program, tmp_path, name, version):
    source = save(tmp_path, nifti(VOLUME, version=version, slope=0.5, intercept=-10.0), name)
    image = CODEC.decode(source)
    CODEC.write(image, moved(image, 3), tmp_path / f"released-{name}", 3)
    flags = ["-diff_hdr"] if version == 1 else ["-diff_hdr2"]
    files = ["-infiles", source, tmp_path / f"released-{name}"]
    result = subprocess.run([program("nifti_tool"), *flags, *files], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
