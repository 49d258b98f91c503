"""PNG files (PNG third edition)."""
