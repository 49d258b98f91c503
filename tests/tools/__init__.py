"""Tools for development that no test of CI runs."""
