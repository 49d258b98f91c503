"""JUnit XML, which pipelines show as tests: a suite for each level, a test for each cell."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from medshield.evidence import Verdict
from medshield.reports.document import Document
from medshield.trials import LAST

SUITE = "medshield verify"
NOT_RUN = "not run"


def suites(document: Document) -> bytes:
    """The levels that were run as JUnit XML.

    A cell that is not or partly protected is a failure; one that could not tell, or was not run,
    is skipped. Times are what training all victims of a cell took, in seconds, if it was counted.

    Args:
        document: made `readable`: XML has no place for control characters.
    """
    root = ET.Element("testsuites", name=f"{SUITE} {document['release']}")
    for level in document["levels"]:
        suite = ET.SubElement(root, "testsuite", name=level)
        properties = ET.SubElement(suite, "properties")
        ET.SubElement(properties, "property", name="verdict", value=document["levels"][level])
        for cell in document["cells"]:
            if cell["level"] == level:
                _add_cell(suite, cell, _seconds(document, cell))
        for name in document["not_run"].get(level, []):
            cell_name, _, reason = name.partition(": ")
            test = ET.SubElement(suite, "testcase", classname=level, name=cell_name)
            ET.SubElement(test, "skipped", message=reason or NOT_RUN)
        _count(suite, [suite])
    _count(root, list(root))
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add_cell(suite: ET.Element, cell: Document, seconds: float | None) -> None:
    test = ET.SubElement(suite, "testcase", classname=cell["level"], name=cell["cell"])
    if seconds is not None:
        test.set("time", f"{seconds:.3f}")
    if cell["verdict"] == Verdict.INCONCLUSIVE:
        ET.SubElement(test, "skipped", message=f"inconclusive: {cell['why']}")
    elif cell["verdict"] != Verdict.PROTECTED:
        failure = ET.SubElement(test, "failure", type=cell["verdict"])
        failure.set("message", f"{cell['verdict']}: {cell['why']}")
        failure.text = cell["why"]


def _seconds(document: Document, cell: Document) -> float | None:
    """What training the victims of a cell took in all."""
    cost = document.get("cost", {}).get(cell["cell"])
    if not cost:
        return None
    scores = [next(iter(arm[LAST].values())) for arm in cell["scores"].values()]
    seconds: float = cost["seconds"] * sum(score["n"] for score in scores)
    return seconds


def _count(element: ET.Element, of: list[ET.Element]) -> None:
    tests = [test for suite in of for test in suite.iter("testcase")]
    element.set("tests", str(len(tests)))
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        element.set(attribute, str(sum(test.find(tag) is not None for test in tests)))
    element.set("errors", "0")
    element.set("time", f"{sum(float(test.get('time', 0)) for test in tests):.3f}")
