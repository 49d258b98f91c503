"""Coded frames: exact by every decoder, in the form that the source's frame had; and offsets."""

import struct
import zlib

import imagecodecs
import jpeg_ls
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medshield.errors import RefusedFile
from medshield.formats import limits
from medshield.formats.dicom.codec import DicomCodec
from medshield.formats.dicom.codestreams import read_codestream
from tests.dicom_files import (
    GREY,
    TWELVE,
    around_pixels,
    coded,
    header,
    j2k,
    jpeg_baseline,
    jpeg_lossless,
    moved,
    native,
    saved,
    smooth,
)

CODEC = DicomCodec()
PLUGINS = ("pylibjpeg", "pyjpegls", "gdcm", "pydicom")


def narrow(frame, precision, signed=False):
    """A frame's lowest bits in the smallest type that holds them, as encoders want them."""
    unused = frame.itemsize * 8 - precision
    bits = frame.view(f"u{frame.itemsize}") << unused
    values = bits.view(f"{'i' if signed else 'u'}{frame.itemsize}") >> unused
    return values.astype(f"{'i' if signed else 'u'}{1 if precision <= 8 else 2}")


def by_jpeg_ls(precision, interleave):
    def encode(frame):
        samples = narrow(frame, precision)
        rows, columns, *more = frame.shape
        if more and interleave == 0:
            samples = samples.transpose(2, 0, 1)
        components = more[0] if more else 1
        mode = interleave if more else 0
        data = samples.tobytes()
        return bytes(jpeg_ls.encode_buffer(data, rows, columns, components, precision, 0, mode))

    return encode


def by_jpeg_2000(precision, signed, mixes):
    return lambda frame: j2k(reversible=True, bitspersample=precision, level=0, mct=mixes)(
        narrow(frame, precision, signed)
    )


def by_htj2k(precision, signed, mixes):
    return lambda frame: imagecodecs.htj2k_encode(
        narrow(frame, precision, signed), reversible=True, rgb=mixes if frame.ndim == 3 else None
    )


def by_jpeg_lossless(precision):
    return lambda frame: jpeg_lossless(narrow(frame, precision), precision)


CODINGS = [
    (JPEGLSLossless, 16, 12, False, 1, by_jpeg_ls(12, 0)),
    (JPEGLSLossless, 16, 12, False, 1, by_jpeg_ls(16, 0)),
    (JPEGLSLossless, 16, 12, True, 1, by_jpeg_ls(12, 0)),
    (JPEGLSLossless, 16, 16, True, 1, by_jpeg_ls(16, 0)),
    (JPEGLSLossless, 8, 6, False, 1, by_jpeg_ls(6, 0)),
    (JPEGLSLossless, 8, 8, False, 3, by_jpeg_ls(8, 0)),
    (JPEGLSLossless, 8, 8, False, 3, by_jpeg_ls(8, 1)),
    (JPEGLSLossless, 8, 8, False, 3, by_jpeg_ls(8, 2)),
    (JPEG2000Lossless, 16, 12, False, 1, by_jpeg_2000(12, False, False)),
    (JPEG2000Lossless, 16, 12, True, 1, by_jpeg_2000(12, True, False)),
    (JPEG2000Lossless, 16, 12, True, 1, by_jpeg_2000(12, False, False)),
    (JPEG2000Lossless, 16, 12, True, 1, by_jpeg_2000(16, True, False)),
    (JPEG2000Lossless, 8, 8, False, 3, by_jpeg_2000(8, False, True)),
    (JPEG2000Lossless, 8, 8, False, 3, by_jpeg_2000(8, False, False)),
    (HTJ2KLossless, 16, 12, False, 1, by_htj2k(16, False, False)),
    (HTJ2KLossless, 16, 12, True, 1, by_htj2k(16, True, False)),
    (HTJ2KLosslessRPCL, 16, 16, True, 1, by_htj2k(16, True, False)),
    (HTJ2KLossless, 8, 8, False, 3, by_htj2k(8, False, True)),
    (HTJ2KLossless, 8, 8, False, 3, by_htj2k(8, False, False)),
    (JPEGLosslessSV1, 16, 12, False, 1, by_jpeg_lossless(12)),
    (JPEGLosslessSV1, 16, 12, True, 1, by_jpeg_lossless(12)),
    (JPEGLosslessSV1, 8, 8, False, 3, by_jpeg_lossless(8)),
]


def frames_of(path):
    dataset = pydicom.dcmread(path)
    return list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))


@pytest.mark.parametrize(("rows", "columns"), [(12, 9), (33, 31), (40, 50)])
@pytest.mark.parametrize("coding", range(len(CODINGS)))
def test_every_decoder_sees_the_same_steps_in_the_same_form(coding, rows, columns, tmp_path):
    syntax, allocated, stored, signed, samples, encode = CODINGS[coding]
    values = smooth((2, rows, columns, samples), stored, signed)
    values = values.astype(f"{values.dtype.kind}{allocated // 8}")
    source, target = tmp_path / "source", tmp_path / "target"
    coded(source, values, syntax, encode, bits=stored)
    image = CODEC.decode(source)
    assert np.array_equal(image.stored, values)
    wanted = moved(image, 3)
    assert np.mean(wanted != values) > 0.9
    assert CODEC.write(image, wanted, target, 3.0) == []
    asked = 0
    for plugin in get_decoder(syntax).available_plugins:
        if plugin == "gdcm" and stored < 8:
            continue  # it aborts the interpreter
        before, after = (
            get_decoder(syntax).as_array(pydicom.dcmread(p), decoding_plugin=plugin)[0].astype(int)
            for p in (source, target)
        )
        steps = wanted.astype(int) - values
        assert np.array_equal(after - before, steps.reshape(after.shape)), plugin
        asked += 1
    assert asked
    assert around_pixels(source) == around_pixels(target)
    forms = [[read_codestream(frame) for frame in frames_of(path)] for path in (source, target)]
    assert forms[0] == forms[1]


@pytest.mark.parametrize("coding", [n for n, coding in enumerate(CODINGS) if coding[4] == 3])
def test_planar_configuration_says_nothing_of_coded_frames(coding, tmp_path):
    """PS3.5 8.2: it is that of the coding; pydicom goes by the header for some, and shuffles."""
    syntax, _, stored, _, _, encode = CODINGS[coding]
    values = smooth((2, 12, 9, 3), stored)
    source = tmp_path / "source"
    coded(source, values, syntax, encode, PlanarConfiguration=1)
    image = CODEC.decode(source)
    CODEC.write(image, wanted := moved(image, 3), tmp_path / "target", 3.0)
    assert np.array_equal(image.stored, values)
    assert np.array_equal(CODEC.decode(tmp_path / "target").stored, wanted)
    before, after = (pydicom.dcmread(path) for path in (source, tmp_path / "target"))
    assert after.PlanarConfiguration == 1
    assert np.abs(after.pixel_array.astype(int) - before.pixel_array).max() == 3


def test_htj2k_frame_of_12_bits_says_12_bits(tmp_path):
    """The encoder knows 8 and 16 bits alone, so that its header has to be set right."""
    values = smooth((1, 40, 50, 1))
    coded(tmp_path / "twelve", values, HTJ2KLossless, by_htj2k(16, False, False), **TWELVE)
    image = CODEC.decode(tmp_path / "twelve")
    raw = (tmp_path / "twelve").read_bytes()
    place = raw.index(b"\xff\x4f\xff\x51") + 42
    # What a 12-bit encoder writes, made by hand: samples less their middle, said to be unsigned.
    centred = (values[0, ..., 0].astype("i2") - 2048).astype("i2")
    frame = bytearray(imagecodecs.htj2k_encode(centred, reversible=True))
    frame[42] = 11
    source = coded(tmp_path / "source", values, HTJ2KLossless, lambda _: bytes(frame), **TWELVE)
    assert raw[place] == 15
    assert np.array_equal(pydicom.dcmread(source).pixel_array, values[0, ..., 0])
    image = CODEC.decode(source)
    CODEC.write(image, wanted := moved(image, 3), tmp_path / "target", 3.0)
    assert np.array_equal(pydicom.dcmread(tmp_path / "target").pixel_array, wanted[0, ..., 0])
    assert read_codestream(frames_of_one(tmp_path / "target")).precision == 12


def frames_of_one(path):
    return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEGLSLossless, by_jpeg_ls(16, 0)),
        (JPEG2000Lossless, by_jpeg_2000(16, False, False)),
        (JPEGLosslessSV1, by_jpeg_lossless(16)),
        (HTJ2KLossless, by_htj2k(16, False, False)),
    ],
)
def test_bits_above_bits_stored_in_coded_samples_are_refused(syntax, encode, tmp_path):
    """pydicom shows them, of JPEG-LS at least, and dcmtk clears them."""
    words = smooth(GREY)
    words[0, 5:9, 3:12] |= 0x8000
    source = coded(tmp_path / "source", words, syntax, encode, **TWELVE)
    with pytest.raises(RefusedFile, match="bits above Bits Stored"):
        CODEC.decode(source)


def test_samples_never_outgrow_the_bits_of_their_frames(tmp_path):
    """A frame of 10 bits under a header of 12: what is over 1023 could not be coded."""
    values = smooth(GREY, 10)
    source = coded(tmp_path / "source", values, JPEG2000Lossless, by_jpeg_2000(10, 0, 0), **TWELVE)
    image = CODEC.decode(source)
    assert image.highest == 1023
    CODEC.write(image, wanted := moved(image, 9), tmp_path / "target", 9.0)
    assert np.array_equal(pydicom.dcmread(tmp_path / "target").pixel_array, wanted[0, ..., 0])


@pytest.mark.parametrize("names", [b"\0\1\2", b"\1\2\3", b"RGB"])
@pytest.mark.parametrize("mark", [b"", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"])
def test_names_and_marks_of_jpeg_colours_stay(names, mark, tmp_path):
    def encode(frame):
        data = bytearray(jpeg_lossless(frame))
        start, scan = data.index(b"\xff\xc3"), data.index(b"\xff\xda")
        data[start + 10 : start + 19 : 3] = data[scan + 5 : scan + 11 : 2] = names
        thumbnail = b"\xff\xe0\0\x13JFIF\0\1\1\0\0\1\0\1\1\1\7\7\7"
        return b"\xff\xd8" + thumbnail + mark + bytes(data[start:])

    source = coded(tmp_path / "source", smooth((1, 9, 8, 3), 8), JPEGLosslessSV1, encode)
    image = CODEC.decode(source)
    CODEC.write(image, wanted := moved(image, 3), tmp_path / "target", 3.0)
    assert np.array_equal(CODEC.decode(tmp_path / "target").stored, wanted)
    frame = frames_of_one(tmp_path / "target")
    start = frame.index(b"\xff\xc3")
    assert frame[2:start] == mark  # and the thumbnail is gone
    assert frame[start + 10 : start + 19 : 3] == names


def test_frames_in_several_fragments(tmp_path):
    values = smooth((3, 20, 30, 1))
    frames = [by_jpeg_ls(12, 0)(frame[..., 0]) for frame in values]
    dataset = header(values, **TWELVE)
    dataset.PixelData = encapsulate(frames, fragments_per_frame=3)
    dataset["PixelData"].is_undefined_length = True
    source = saved(tmp_path / "source", dataset, JPEGLSLossless)
    image = CODEC.decode(source)
    CODEC.write(image, wanted := moved(image, 3), tmp_path / "target", 3.0)
    assert np.array_equal(pydicom.dcmread(tmp_path / "target").pixel_array, wanted[..., 0])


def extended(path, frames, dataset, syntax, uneven=0):
    """With an Extended Offset Table; `uneven` less than each length, as some writers count."""
    dataset.PixelData, offsets, lengths = encapsulate_extended(frames)
    count = len(frames)
    numbers = (length - uneven for length in struct.unpack(f"<{count}Q", lengths))
    dataset.ExtendedOffsetTable = offsets
    dataset.ExtendedOffsetTableLengths = struct.pack(f"<{count}Q", *numbers)
    dataset["PixelData"].is_undefined_length = True
    return saved(path, dataset, syntax)


@pytest.mark.parametrize("uneven", [0, 1])
def test_extended_offsets_are_those_of_the_new_frames(uneven, tmp_path):
    values = smooth((3, 20, 30, 1))
    frames = [by_jpeg_ls(12, 0)(frame[..., 0]) for frame in values]
    source, target = tmp_path / "source", tmp_path / "target"
    extended(source, frames, header(values, **TWELVE), JPEGLSLossless, uneven)
    image = CODEC.decode(source)
    assert CODEC.write(image, image.stored.copy(), target, 0.0) == []
    assert target.read_bytes() == source.read_bytes()
    target.unlink()
    notes = CODEC.write(image, wanted := moved(image, 3), target, 3.0)
    assert [note[:11] for note in notes] == ["(7FE0,0001)", "(7FE0,0002)"]
    dataset = pydicom.dcmread(target)  # which finds the frames by these tables
    assert np.array_equal(dataset.pixel_array, wanted[..., 0])
    offsets, lengths = (
        struct.unpack("<3Q", table)
        for table in (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    )
    items = dataset.PixelData[8:]
    for offset, length in zip(offsets, lengths, strict=True):
        assert items[offset : offset + 4] == b"\xfe\xff\0\xe0"
        assert int.from_bytes(items[offset + 4 : offset + 8], "little") == length


def test_decoded_file_has_no_offsets(tmp_path):
    values = smooth((2, 16, 24, 1), 8)
    frames = [jpeg_baseline(frame[..., 0]) for frame in values]
    source = extended(tmp_path / "source", frames, header(values), JPEGBaseline8Bit)
    image = CODEC.decode(source)
    notes = CODEC.write(image, wanted := moved(image, 3), tmp_path / "target", 3.0)
    assert "(7FE0,0001) Extended Offset Table: removed, its coding was lossy" in notes
    dataset = pydicom.dcmread(tmp_path / "target")
    assert "ExtendedOffsetTable" not in dataset
    assert np.array_equal(dataset.pixel_array, wanted[..., 0])


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        ("1.2.840.10008.1.2.4.102", r"MPEG-4 AVC/H\.264 .* not supported: it is a video"),
        ("1.2.840.10008.1.2.4.107", "HEVC/H.265 .*: it is a video"),
        ("1.2.840.10008.1.2.7.1", "SMPTE .*: it is a video"),
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced is .*: its pixels are on a server"),
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless is not supported; convert"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL is not supported; convert"),
        ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression is not supported"),
        ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Multi-component .* is not supported"),
        ("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed .* is not supported"),
        ("1.2.3.4.5.6", r"\(unknown\) is not supported"),
    ],
)
def test_codings_that_are_refused_by_name(syntax, reason, tmp_path):
    dataset = header(smooth(GREY))
    dataset.PixelData = encapsulate([bytes(64)])
    dataset["PixelData"].is_undefined_length = True
    source = saved(tmp_path / "source", dataset, JPEGLSLossless)  # pydicom writes no other
    old, new = JPEGLSLossless.encode(), syntax.encode()
    new += b"\0" * (len(new) % 2)
    raw = source.read_bytes().replace(b"UI\x16\0" + old, b"UI" + struct.pack("<H", len(new)) + new)
    source.write_bytes(raw)
    with pytest.raises(RefusedFile, match=reason):
        CODEC.decode(source)


def test_checksum_behind_a_deflated_data_set_stays_true(tmp_path):
    """What gzip adds and PS3.5 A.5 does not ask for."""
    source = native(tmp_path / "source", smooth(GREY), DeflatedExplicitVRLittleEndian, **TWELVE)
    plain = native(tmp_path / "plain", smooth(GREY), ExplicitVRLittleEndian, **TWELVE)
    start = pydicom.dcmread(source).file_meta.FileMetaInformationGroupLength + 144
    length = pydicom.dcmread(plain).file_meta.FileMetaInformationGroupLength + 144
    content = plain.read_bytes()[length:]
    deflater = zlib.compressobj(wbits=-15)
    data = deflater.compress(content) + deflater.flush()
    data += struct.pack("<II", zlib.crc32(content), len(content))
    source.write_bytes(source.read_bytes()[:start] + data)
    image = CODEC.decode(source)
    CODEC.write(image, moved(image, 3), tmp_path / "target", 3.0)
    inflater = zlib.decompressobj(-15)
    content = inflater.decompress((tmp_path / "target").read_bytes()[start:])
    checksum = struct.pack("<II", zlib.crc32(content), len(content))
    assert inflater.unused_data.rstrip(b"\0") == checksum.rstrip(b"\0")
    source.write_bytes(source.read_bytes()[:-8] + b"whatever")
    with pytest.raises(RefusedFile, match="followed by 8 bytes"):
        CODEC.decode(source)


def test_deflated_data_set_is_inflated_with_a_limit(tmp_path, monkeypatch):
    source = native(tmp_path / "source", smooth(GREY), DeflatedExplicitVRLittleEndian, **TWELVE)
    monkeypatch.setattr(limits, "MOST_STORED_BYTES", 800)
    with pytest.raises(RefusedFile, match="at most 800 are decoded"):
        CODEC.decode(source)


def test_frames_that_inflate_to_more_than_the_header_says(tmp_path):
    """A small frame can declare very many pixels: its own header is read first."""
    frame = bytearray(by_jpeg_ls(12, 0)(smooth(GREY)[0, ..., 0]))
    frame[7:11] = b"\xff\xff\xff\xff"
    source = coded(tmp_path / "source", smooth(GREY), JPEGLSLossless, lambda _: frame, **TWELVE)
    with pytest.raises(RefusedFile, match="a coded frame has 65535 columns, 65535 rows"):
        CODEC.decode(source)


def test_components_of_unlike_sizes_are_refused(tmp_path):
    def encode(frame):
        data = bytearray(jpeg_lossless(frame))
        data[data.index(b"\xff\xc3") + 11] = 0x21
        return bytes(data)

    source = coded(tmp_path / "source", smooth((1, 9, 8, 3), 8), JPEGLosslessSV1, encode)
    with pytest.raises(RefusedFile, match="fewer samples of one component"):
        CODEC.decode(source)


def test_retired_coding_of_ybr_is_refused(tmp_path):
    source = coded(
        tmp_path / "source",
        smooth((1, 16, 16, 3), 8),
        UID("1.2.840.10008.1.2.4.55"),
        jpeg_baseline,
        PhotometricInterpretation="YBR_FULL_422",
    )
    with pytest.raises(RefusedFile, match="YBR_FULL_422 in a retired coding"):
        CODEC.decode(source)


@pytest.mark.parametrize(
    ("extra", "kept"), [(b"\0" * 2000, True), (b"ab", True), (b"\1\2" * 40, False)]
)
def test_bytes_behind_the_pixels_stay_unless_they_may_be_more_of_them(extra, kept, tmp_path):
    source = native(tmp_path / "source", smooth(GREY), extra=extra)
    if not kept:
        with pytest.raises(RefusedFile, match="more of the picture would stay"):
            CODEC.decode(source)
        return
    image = CODEC.decode(source)
    CODEC.write(image, wanted := moved(image, 3), tmp_path / "target", 3.0)
    data = pydicom.dcmread(tmp_path / "target").PixelData
    assert data == wanted.tobytes() + extra


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_rle_of_every_size(bits, samples, tmp_path):
    """32 bits too, which pydicom reads and does not write (PS3.5 G)."""
    values = smooth((2, 7, 5, samples), bits - 3)
    source = native(tmp_path / "native", values)
    image = CODEC.decode(source)
    frames = dicom_rle(values)
    dataset = header(values)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    source = saved(tmp_path / "source", dataset, RLELossless)
    image = CODEC.decode(source)
    assert np.array_equal(image.stored, values)
    CODEC.write(image, wanted := moved(image, 3), tmp_path / "target", 3.0)
    read = pydicom.dcmread(tmp_path / "target").pixel_array
    assert np.array_equal(read.reshape(wanted.shape), wanted)


def dicom_rle(values):
    """Literal runs alone, a segment for each byte of each sample."""
    frames = []
    for frame in values:
        order = frame.astype(frame.dtype.newbyteorder(">"))
        planes = order.view("u1").reshape(*frame.shape, -1).transpose(2, 3, 0, 1)
        segments = [
            b"".join(bytes([len(row) - 1]) + row.tobytes() for row in plane)
            for plane in planes.reshape(-1, *frame.shape[:2])
        ]
        segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
        starts = np.cumsum([64, *map(len, segments[:-1])])
        offsets = [len(segments), *starts, *[0] * (15 - len(segments))]
        frames.append(struct.pack("<16I", *offsets) + b"".join(segments))
    return frames
