"""What `verify` found, as files: JSON for programs, pages for people, JUnit for a pipeline.

Every report is made of the document of `Evidence.to_json()` alone, so that no two of them say
different things.
"""

from medshield.reports.files import refuse_targets, write_junit, write_reports

__all__ = ["refuse_targets", "write_junit", "write_reports"]
