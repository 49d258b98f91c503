"""How much of a file the audit reads, inflates or follows; its own limits, as it shares no code.

They are those of the codecs or wider, so that what was released can be checked.
"""

MOST_BYTES = 2 << 30
"""What an image may have in bytes of pixels: nothing larger is ever released."""

MOST_FILE_BYTES = 8 << 30
"""Of a file on disk: a release may be larger than its source, as it is coded anew."""

MOST_AROUND = 32 << 20
"""Bytes of a NIfTI file's header, extensions and what follows the voxels."""

MOST_PARTS = 1 << 20
"""Chunks of a PNG, or elements of one DICOM data set or item."""

MOST_SEGMENTS = 1 << 15
"""Of a JPEG."""

MOST_SCANS = 200
"""Of a JPEG, as each may take as long to decode as the picture."""

MOST_FOLDERS = 1 << 17
"""Directories of a TIFF."""

MOST_LEVELS = 16
"""How deep directories of a TIFF lie in each other."""

MOST_NUMBERS = 1 << 24
"""In the tags of all directories of a TIFF."""

MOST_SHARED_BYTES = 1 << 26
"""By which the values of a TIFF's tags may have more bytes than the file, as pages share some."""
