import zlib

import numpy as np
import pytest

from medshield.formats.deflate import raw_stream, zlib_stream

NOISE = np.random.default_rng(0).bytes(100_000)


@pytest.mark.parametrize(
    "data", [b"", b"\0", bytes(1_000_000), NOISE], ids=["none", "one", "zeros", "noise"]
)
def test_zlib_inflates_what_is_deflated(data):
    for stream, window in (
        (zlib_stream(data), zlib.MAX_WBITS),
        (raw_stream(data), -zlib.MAX_WBITS),
    ):
        inflater = zlib.decompressobj(window)
        assert inflater.decompress(stream) == data
        assert inflater.eof
        assert not inflater.unused_data
    assert len(zlib_stream(bytes(1_000_000))) < 2_000
