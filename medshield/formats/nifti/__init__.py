"""NIfTI-1 and NIfTI-2 volumes (nifti1.h, nifti2.h)."""
