"""The measurements behind docs/protection.md that `medshield verify` does not make."""
