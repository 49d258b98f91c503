"""How much of a file is ever read, inflated or followed, by format: beyond it a file is refused.

Files may be damaged, or made to do harm. Each limit lies far above what real files have, and low
enough that a file at the limit takes seconds and little memory beside its pixels. `docs/limits.md`
says of each what happens beyond it. The audit has its own (`medshield.audit.limits`).
"""

# Every format

MOST_STORED_BYTES = 2 << 30
"""Of pixels, as the header declares them, told before anything is inflated."""

MOST_FILE_BYTES = 4 << 30
"""Of a file on disk: twice what its pixels may have, as it may hold more than pixels."""

LARGEST_RATIO = 1032
"""Bytes that deflate makes out of one: at most 258 out of 2 bits."""

MOST_GZIP_MEMBERS = 1 << 16
"""Of a gzip file; BGZF has one for every 64 KiB."""

MOST_EXIF_DIRECTORIES = 16
"""Of an EXIF block: a chain this long is not a thumbnail's."""

MOST_EXIF_NUMBERS = 1 << 16
"""That an EXIF block's directories hold in all; their entries may claim the same bytes."""

# PNG

MOST_PNG_CHUNKS = 1 << 18
"""Pixels in chunks of 8 KiB, as libpng writes them, reach 2 GiB with so many."""

MOST_PNG_TEXT_BYTES = 64 << 20
"""Of all texts of a file, inflated to look for pictures in them."""

# JPEG

MOST_JPEG_SEGMENTS = 1 << 14
"""A colour profile has at most 255; a segment holds at most 64 KiB."""

MOST_JPEG_FILL = 1 << 16
"""Bytes of fill in a row, which some hardware writes before a marker."""

MOST_JPEG_SCANS = 100
"""Usual progressive files have about ten, and each may take as long to decode as the picture."""

# TIFF

MOST_TIFF_DIRECTORIES = 1 << 16
"""Pages, sub-pages and private directories of a file."""

MOST_TIFF_LEVELS = 8
"""How deep directories lie in each other; a pyramid and its EXIF need two."""

MOST_TIFF_NUMBERS = 1 << 23
"""In the tags of all pages: two for each strip or tile. A thousand pages of 2,048 rows, each a
strip of its own, have half as many."""

MOST_TIFF_SHARED_BYTES = 1 << 24
"""By which the values of tags may have more bytes than the file: overlapping values take the time
of their sum to be read. The very same value counts once, as pages share values."""

MOST_TIFF_STRAYS = 1 << 10
"""Different runs of bytes that belong to nothing and are looked for elsewhere in the file."""

MOST_LZMA_BYTES = 256 << 20
"""Of memory that LZMA's decoder may ask for."""

# NIfTI

MOST_NIFTI_TRAILING_BYTES = 16 << 20
"""What may follow the voxels, or fill a header file: it is kept, so it takes memory."""

# DICOM

MOST_DICOM_LEVELS = 64
"""How deep sequences may lie in each other; the deepest standard objects need about 10."""

MOST_DICOM_ELEMENTS = 1 << 19
"""Elements and items at any depth: an enhanced image of 5,000 frames has about 300,000."""

MOST_DICOM_FRAGMENTS = 1 << 17
"""Of encapsulated Pixel Data; one frame has one fragment, of which large ones may have more."""

LARGEST_ICON_SIDE = 2048
"""Pixels; the standard asks for 128 at most in its directories, and for small ones elsewhere."""
