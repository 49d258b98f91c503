"""The laws of the NIfTI codec: identity, bound, nothing but voxels; and what it refuses."""

import gzip
import io
import shutil
import struct
import subprocess
from fractions import Fraction

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medshield.errors import NotAnImage, RefusedFile
from medshield.formats.base import IntensityRange
from medshield.formats.limits import MOST_NIFTI_TRAILING_BYTES
from medshield.formats.nifti.codec import NiftiCodec, background_value
from tests.builders import outside_pixels

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
    shape = image.stored[..., : image.colour_channels].transpose(0, 3, 1, 2).shape
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
    assert outside_pixels(source, target) == []
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


def test_gzip_is_repeatable_and_keeps_its_header(tmp_path):
    """Name, time, system and level stay; the rest hangs on the voxels alone."""
    data = io.BytesIO()
    with gzip.GzipFile("brain.nii", "wb", 9, data, mtime=1_234_567) as file:
        file.write(nifti(np.arange(8, dtype=np.int16)))
    source = tmp_path / "a.nii.gz"
    source.write_bytes(data.getvalue())
    image = CODEC.decode(source)
    for name in ("one.nii.gz", "two.nii.gz"):
        CODEC.write(image, image.stored + np.int16(1), tmp_path / name, 1)
    one = (tmp_path / "one.nii.gz").read_bytes()
    assert one == (tmp_path / "two.nii.gz").read_bytes()
    assert one[:20] == source.read_bytes()[:20]
    assert one[10:20] == b"brain.nii\0"


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


def pair(tmp_path, volume=VOLUME, *, version=1, order="<", gap=0, zipped="", names=("hdr", "img")):
    """A pair of header and voxels, these `gap` bytes into their file."""
    whole = nifti(volume, order, version, extension=(6, b"a comment"), slope=2.0)
    start = len(whole) - volume.nbytes
    head = bytearray(whole[:start])
    if version == 1:
        struct.pack_into(order + "f", head, 108, gap)
        head[344:348] = b"ni1\0"
    else:
        struct.pack_into(order + "q", head, 168, gap)
        head[4:7] = b"ni2"
    voxels = bytes(range(gap)) + whole[start:] + b"tail"
    return (
        save(tmp_path, bytes(head), f"scan.{names[0]}{zipped}"),
        save(tmp_path, voxels, f"scan.{names[1]}{zipped}"),
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("order", "gap"), [("<", 0), (">", 16)])
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_a_pair_keeps_all_but_the_voxels(tmp_path, version, order, gap, zipped):
    half, source = pair(tmp_path, version=version, order=order, gap=gap, zipped=zipped)
    for path in (half, source):
        assert CODEC.recognises(path.read_bytes()[:512], path)
    with pytest.raises(NotAnImage, match="header"):
        CODEC.decode(half)
    image = CODEC.decode(source)
    assert np.array_equal(image.stored[..., 0], VOLUME.transpose(2, 1, 0))
    assert image.details["version"] == f"NIfTI-{version} pair"

    alone = tmp_path / f"temporary.img{zipped}"
    assert CODEC.write(image, moved(image, 3), alone, 3) == []
    assert np.array_equal(CODEC.read_back(image, alone).stored, moved(image, 3))

    released = tmp_path / "released"
    released.mkdir()
    shutil.copy(half, released)
    target = released / source.name
    alone.rename(target)
    assert np.array_equal(CODEC.decode(target).stored, moved(image, 3))
    assert_readers_see(target, moved(image, 3), source)
    assert outside_pixels(source, target) == []
    before, after = (unzipped(path) for path in (source, target))
    assert (after[:gap], after[-4:]) == (before[:gap], b"tail")

    CODEC.write(image, image.stored, tmp_path / "same", 0)
    assert (tmp_path / "same").read_bytes() == source.read_bytes()


def unzipped(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def test_names_of_pairs(tmp_path):
    _, loud = pair(tmp_path, names=("HDR", "IMG"))
    assert CODEC.decode(loud).stored.size == VOLUME.size
    half, source = pair(tmp_path)
    save(tmp_path, half.read_bytes(), "scan.hdr.gz")
    half.unlink()
    assert CODEC.decode(source).stored.size == VOLUME.size
    (tmp_path / "scan.hdr.gz").unlink()
    assert not CODEC.recognises(source.read_bytes()[:512], source)


def test_a_header_that_holds_more_is_refused_and_not_copied(tmp_path):
    half, source = pair(tmp_path)
    half.write_bytes(half.read_bytes() + source.read_bytes())
    with pytest.raises(RefusedFile, match="more follows"):
        CODEC.decode(half)


def colours(channels, tail=b""):
    """A volume of 2 x 3 x 4 voxels, a colour each."""
    values = np.random.default_rng(0).integers(20, 200, (4, 3, 2, channels), dtype=np.uint8)
    code = {3: 128, 4: 2304}[channels]
    head = header((2, 3, 4), code, slope=3.0)
    return values, head + bytes(4) + values.tobytes() + tail


@pytest.mark.parametrize("channels", [3, 4])
def test_colours(tmp_path, channels):
    values, data = colours(channels, b"tail")
    source, target = save(tmp_path, data), tmp_path / "target.nii"
    image = CODEC.decode(source)
    assert np.array_equal(image.stored, values)
    assert (image.kind, image.slope, image.declared) == ("NIfTI colour", 1, ((0, 255),))
    assert image.details["data type"] == {3: "uint8 RGB", 4: "uint8 RGBA"}[channels]
    CODEC.write(image, moved(image, 3), target, 3)
    released = CODEC.decode(target).stored
    assert (np.abs(released.astype(int) - values)[..., :3] == 3).all()
    assert np.array_equal(released[..., 3:], values[..., 3:])
    seen = np.asarray(nibabel.load(target).dataobj.get_unscaled())
    for number, name in enumerate("RGBA"[:channels]):
        assert np.array_equal(seen[name].transpose(2, 1, 0), released[..., number])
    assert target.read_bytes()[:352] == data[:352]
    assert outside_pixels(source, target) == []


def test_black_around_a_colour_volume_stays(tmp_path):
    values, data = colours(3)
    values[:2] = 0
    image = CODEC.decode(save(tmp_path, data[:352] + values.tobytes()))
    change = moved(image, 3) != image.stored
    assert not change[:2].any()
    assert change[2:].all()


@pytest.mark.parametrize(
    ("intent", "kind"),
    [(0, "NIfTI"), (5, "NIfTI statistic"), (1001, "NIfTI statistic"), (1007, "NIfTI vectors")],
)
def test_values_that_mean_other_things_are_of_another_kind(tmp_path, intent, kind):
    image = CODEC.decode(save(tmp_path, nifti(VOLUME.astype("f4"), intent=intent)))
    assert image.kind == kind
    assert not image.labels


def test_volumes_of_labels_say_so(tmp_path):
    def decoded(values, **fields):
        return CODEC.decode(save(tmp_path, nifti(values, intent=1002, **fields)))

    assert decoded(VOLUME).labels
    assert not decoded(VOLUME.astype("f4")).labels
    assert not decoded(np.arange(2000, dtype="i2")).labels  # an image under a wrong name


def test_bytes_declare_the_range_of_eight_bits(tmp_path):
    volume = VOLUME.astype("u1")
    assert CODEC.decode(save(tmp_path, nifti(volume))).declared == ((0, 255),)
    assert CODEC.decode(save(tmp_path, nifti(volume, slope=0.5))).declared == ()
    assert CODEC.decode(save(tmp_path, nifti(VOLUME.astype("i1")))).declared == ()


@pytest.mark.parametrize(
    ("intent", "shape"), [(1006, (2, 2, 2, 1, 3)), (2006, (2, 2, 2, 3)), (1008, (4, 3))]
)
def test_what_is_no_picture(tmp_path, intent, shape):
    data = nifti(np.ones(shape, "f4"), intent=intent)
    with pytest.raises(NotAnImage, match="no picture"):
        CODEC.decode(save(tmp_path, data))


@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_too_large_is_told_by_the_header_alone(tmp_path, zipped):
    huge = header((30_000, 30_000, 3), 4) + bytes(1000)
    with pytest.raises(RefusedFile, match="declares"):
        CODEC.decode(save(tmp_path, huge, "huge.nii" + zipped))


def test_a_bomb_behind_an_honest_header_is_not_inflated(tmp_path):
    bomb = gzip.compress(WHOLE + bytes(MOST_NIFTI_TRAILING_BYTES + 1))
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(bomb)
    with pytest.raises(RefusedFile, match="inflates to more"):
        CODEC.decode(path)


REFUSED = {
    "bit": (header((1,), 1) + bytes(7), "1-bit"),
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
    "header": (WHOLE[:350], "its header speaks of"),
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
    assert outside_pixels(source, target) == []


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
