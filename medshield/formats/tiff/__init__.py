"""TIFF and BigTIFF files (TIFF 6.0)."""
