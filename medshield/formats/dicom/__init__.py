"""DICOM files (PS3.5, PS3.10)."""
