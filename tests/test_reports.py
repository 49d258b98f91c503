"""What `verify` writes: pages that stand alone, JUnit XML, and the limit of --fail-above."""

import json
import math
import re
import stat
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from medshield.contact_sheet import Tile
from medshield.errors import InputError
from medshield.evidence import Verdict
from medshield.reports import figures, html, junit, markdown, words, write_reports
from medshield.reports.curves import curves_of
from medshield.reports.document import finite, number, readable, score_text
from tests.builders import medshield
from tests.report_documents import ARMS, cell, document
from tests.test_verify import QUICK, make_set, protect

VOID = {"meta", "img", "br", "wbr", "hr", "link", "input"}
PICTURE = np.full((8, 8, 3), 90, np.uint8)
PICTURES = (Tile((PICTURE, PICTURE, None), ("1   PNG, 8 x 8, grey", "greatest change 8")),)


class Page(HTMLParser):
    """Reads a page and keeps its tags, texts and attributes; unbalanced tags are errors."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


def page_of(found, pictures=()):
    return Page(html.page(readable(finite(found)), pictures))


@pytest.fixture
def partly():
    """One cell holds, one leaks a little, one could not tell, one was not run."""
    return document(
        cell("resnet18:standard", 0.05),
        cell("densenet121:standard", 0.3),
        cell("convnext_atto:standard", None),
        not_run={"basic": ["vgg11_bn:standard: no weights; give --weights FILE"]},
    )


@pytest.fixture(params=["classification", "multilabel", "segmentation"])
def of_any_task(request):
    task = request.param
    name = "unet_resnet18:standard" if task == "segmentation" else "resnet18:standard"
    arms = (*ARMS, "clean fifth alone")
    return document(cell(name, 0.3, task=task), cell("mix", 0.2, task=task, arms=arms), task=task)


def test_the_first_words_are_verdict_question_and_why(partly):
    said = words.summary(partly)
    assert said.verdict == "partly"
    assert said.answer.startswith("In part: up to 35 % of what the clean images teach")
    assert said.holds == "Only level basic was run."
    assert said.breaks.startswith("Level basic is broken by densenet121:standard: leakage")
    text = page_of(partly).text
    order = ("Partly", said.question, said.answer, said.breaks, "Threat levels")
    places = [text.index(words_) for words_ in order]
    assert places == sorted(places)


def test_a_wide_interval_is_not_called_a_break(partly):
    found = {**partly["cells"][1], "surely_leaks": False}
    said = words.summary({**partly, "cells": [partly["cells"][0], found]})
    assert said.breaks.startswith("Level basic is not shown to hold against densenet121:standard")
    assert said.breaks.endswith("More trainings (--seeds) would narrow the interval.")
    often = {**found, "seeds": 10}
    said = words.summary({**partly, "cells": [partly["cells"][0], often]})
    assert said.breaks.endswith("More trainings (--most-seeds) would narrow the interval.")


def test_trainings_are_told_as_they_were(partly):
    assert words.trainings_text(partly) == "3"
    first, *others = partly["cells"]
    uneven = {**partly, "cells": [{**first, "seeds": 10}, *others]}
    assert words.trainings_text(uneven) == "3, and up to 10 where intervals were wide"
    older = [{key: value for key, value in one.items() if key != "seeds"} for one in (first,)]
    assert words.trainings_text({**partly, "cells": older}) == "3"


def test_a_level_is_called_broken_by_what_it_judges_alone():
    """The ranking surely leaks, which `determined` looks at and `basic` does not."""
    found = cell("resnet18:standard", 0.3)
    verdict = {"verdict": "partly", "why": "leakage of balanced accuracy"}
    found["judged"] = {
        "basic": {**verdict, "surely_leaks": False},
        "determined": {**verdict, "surely_leaks": True},
    }
    levels = {"basic": "partly", "determined": "partly"}
    said = words.summary(document(found, threat="determined", levels=levels))
    assert said.breaks.startswith("Level basic is not shown to hold against resnet18:standard")


def test_an_interval_without_an_end_leaves_all(partly):
    open_end = cell("densenet121:standard", 0.9)
    open_end["leakage"][0]["high"] = None
    said = words.summary(finite(document(open_end)))
    assert said.answer.startswith("No: up to all of what the clean images teach")


def test_what_leaks_surely_is_named_before_what_reaches_further(partly):
    sure = {**partly["cells"][1], "surely_leaks": True}
    wide = {**cell("vgg11_bn:standard", 0.4), "surely_leaks": False}
    said = words.summary({**partly, "cells": [wide, sure]})
    assert said.breaks.startswith("Level basic is broken by densenet121:standard")


def test_the_level_that_holds_and_the_cell_that_breaks_the_next_are_named():
    broken = cell("resnet18:standard:grey", 0.9, level="determined")
    base = cell("resnet18:standard", 0.02)
    base["judged"] = {"basic": {"verdict": "protected", "why": "fine"}}
    levels = {"basic": "protected", "determined": "not protected"}
    said = words.summary(document(base, broken, threat="determined", levels=levels))
    assert said.holds == "The release holds at threat level basic."
    assert said.breaks.startswith("Level determined is broken by resnet18:standard:grey")
    assert said.answer.startswith("No: up to 95 %")


def test_an_open_level_says_what_was_not_run():
    missing = ["a:standard", "b:standard: no weights", "c:standard", "d:standard"]
    found = document(
        cell("resnet18:standard", 0.01),
        verdict="inconclusive",
        levels={"basic": "inconclusive"},
        not_run={"basic": missing},
    )
    said = words.summary(found)
    assert said.answer == words.UNDECIDED
    assert said.breaks == (
        "Level basic stays open (not run: a:standard, b:standard, c:standard and 1 more)."
    )


def test_nothing_is_left_to_say_of_a_release_that_holds():
    said = words.summary(document(cell("resnet18:standard", 0.02)))
    assert (said.breaks, said.limit) == ("", "")
    assert said.answer.startswith("Yes: at most 7 %")


def test_less_than_nothing_is_not_said_as_a_share():
    said = words.summary(document(cell("resnet18:standard", -0.3)))
    assert said.answer.startswith("Yes: nothing of what the clean images teach is shown to be left")
    assert "interval in the worst cell: -0.25" in said.answer
    held_back = document(cell("resnet18:standard", -0.3), verdict="partly")
    assert words.summary(held_back).answer.startswith("In part: up to 1 % of what")
    said = words.summary(document(cell("resnet18:standard", -0.047)))
    assert said.answer.startswith("Yes: at most 1 % of what")


def test_the_page_stands_alone(of_any_task):
    page = page_of(of_any_task, PICTURES)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.named("img"))
    assert all(image["alt"] for image in page.named("img"))
    assert not re.search(r"//|url\(|@import", html.page(readable(of_any_task)))
    places = [value for _, a in page.tags for name, value in a.items() if name in ("href", "src")]
    assert all(place.startswith("data:") for place in places)


def test_the_page_is_marked_up_for_those_who_do_not_see_it(of_any_task):
    page = page_of(of_any_task, PICTURES)
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h1")) == 1
    assert all("scope" in header for header in page.named("th"))
    drawings = [a for a in page.named("svg") if a.get("role") == "img"]
    assert drawings
    assert all(drawing["aria-label"] for drawing in drawings)
    pictured = [a for tag, a in page.tags if tag == "figure"]
    assert len(pictured) == len(page.named("figcaption"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_cell_and_every_arm_is_on_the_page(of_any_task):
    text = page_of(of_any_task).text
    for one in of_any_task["cells"]:
        assert one["cell"] in text
        assert one["why"] in text
    for arm in (*ARMS, "clean fifth alone"):
        assert arm in text


def test_only_a_page_with_pictures_shows_images_and_names_files(partly):
    partly["worst_files"] = [{"path": "a/SYN-1.png", "psnr": 30.1}]
    with_pictures, without = page_of(partly, PICTURES), page_of(partly)
    assert len(with_pictures.named("img")) == 2
    assert "Keep this page private" in with_pictures.text
    assert "a/SYN-1.png" in with_pictures.text
    assert without.named("img") == []
    assert "private" not in without.text
    assert "SYN-1" not in without.text
    assert "SYN-1" not in markdown.page(partly)


def test_scores_of_classes_are_drawn_where_there_are_some(partly):
    assert "Scores of each class" not in page_of(partly).text
    values = {"nodule": 0.8, "effusion": None}
    partly["cells"][0]["per_class"] = {"clean": values, "protected": {"nodule": {"mean": 0.6}}}
    page = page_of(partly)
    assert "Scores of each class" in page.text
    labels = [drawing.get("aria-label") for drawing in page.named("svg")]
    assert "nodule: clean 0.800, protected 0.600" in labels
    assert "effusion: clean n/a, protected n/a" in labels


def test_hostile_names_stay_text(partly):
    partly["release"] = "<b>x</b> & \x1b[31m\ud800 | `y` [z](http://evil)"
    partly["notes"] = ["<script>alert(1)</script>\n# heading"]
    partly["cells"][0]["per_class"] = {"clean": {"<i>a_b:c</i>": 0.5}}
    page = page_of(partly, PICTURES)
    assert page.named("b") == page.named("script") == page.named("i") == []
    assert "<i>a_b:c</i>" in page.text
    assert r"<b>x</b> & \x1b[31m\ud800 |" in page.text
    text = markdown.page(readable(partly))
    assert r"\<b\>x\</b\> &amp; \\x1b[31m\\ud800 \| \`y\` [z]\(http://evil)" in text
    assert "\n# heading" not in text
    root = ET.fromstring(junit.suites(readable(partly)))
    assert root.get("name").startswith(r"medshield verify <b>x</b> & \x1b")


def test_missing_numbers_are_said_to_be_missing(partly):
    partly["cells"][0]["scores"]["protected"]["last epoch"]["balanced_accuracy"]["mean"] = math.nan
    partly["fidelity"]["psnr"]["median"] = math.inf
    known = readable(finite(partly))
    for text in (html.page(known), markdown.page(known)):
        assert not re.search(r"\b(nan|inf|None)\b", text)
        assert "n/a" in text


def test_optional_fields_may_be_absent(partly):
    for name in ("cost", "fidelity", "weights", "versions", "notes", "seconds", "limit", "floor"):
        del partly[name]
    for one in partly["cells"]:
        del one["curves"], one["fitted"]
        for leaked in one["leakage"]:
            del leaked["counts"]
    known = readable(partly)
    assert Page(html.page(known)).named("h1")
    assert markdown.page(known).startswith("# scans-protected: partly\n")
    assert ET.fromstring(junit.suites(known)).get("time") == "0.000"


def test_an_interval_is_shown_rather_than_a_deviation():
    assert score_text({"mean": 0.9, "sd": 0.01, "n": 3}) == "0.900 ±0.010"
    assert score_text({"mean": 0.9, "sd": 0.01, "low": 0.8, "high": 0.95}) == "0.900 [0.80, 0.95]"
    assert score_text({"mean": None, "sd": None}) == "n/a"
    assert number(-0.001) == "0.00"


def test_marks_lie_where_the_values_are():
    chart = figures.leakage_chart([cell("resnet18:standard", 0.5)])
    (row,) = chart.rows
    assert (chart.axis.low, chart.axis.high) == (0.0, 1.0)
    assert [(mark.low, mark.at, mark.high) for mark in row.marks[:1]] == [(45.0, 50.0, 55.0)]
    assert [mark.faint for mark in row.marks] == [False, False, True, True, True, True]
    assert sum("decisive" in mark.kind for mark in row.marks) == 1
    assert chart.bands == ((0.0, 15.0, "good"), (15.0, 50.0, "fair"))


def test_an_interval_beyond_the_axis_ends_in_an_arrow():
    chart = figures.leakage_chart([cell("a", 3.0), cell("b", -0.1)])
    assert (chart.axis.low, chart.axis.high) == (-0.25, 1.5)
    first = chart.rows[0].marks[0]
    assert (first.at, first.high, first.cut_high) == (None, 100.0, True)
    assert not any(mark.cut_low for mark in chart.rows[1].marks)


def test_curves_are_interrupted_where_there_is_no_score():
    found = document(cell("resnet18:standard", 0.5, epochs=4))
    runs = found["cells"][0]["curves"]["clean"]
    for one in runs:
        one["test"][1]["balanced_accuracy"] = None
    drawn = curves_of(found, found["cells"][0], "balanced_accuracy")
    clean, protected, _ = drawn.curves
    assert clean.line.count("M") == 2
    assert protected.line.count("M") == 1
    assert protected.band.startswith("M")
    assert drawn.epochs == 4


def test_the_markdown_has_a_row_per_cell(partly):
    text = markdown.page(readable(finite(partly)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(partly["cells"])
    assert {row.count(" | ") for row in rows} == {3 + len(ARMS)}
    assert "- basic: vgg11\\_bn:standard: no weights; give --weights FILE" in text


COUNTS = ("tests", "failures", "skipped", "errors")


def test_junit_has_the_structure_that_pipelines_read(partly):
    root = ET.fromstring(junit.suites(readable(finite(partly))))
    assert root.tag == "testsuites"
    (suite,) = root
    assert {element.tag for element in suite} == {"properties", "testcase"}
    for element in (root, suite):
        assert [element.get(name) for name in COUNTS] == ["4", "1", "2", "0"]
        assert float(element.get("time")) == pytest.approx(3 * 2.5 * 3 * 3)
    tests = {test.get("name"): test for test in suite.iter("testcase")}
    assert all(test.get("classname") == "basic" for test in tests.values())
    assert list(tests["resnet18:standard"]) == []
    assert tests["resnet18:standard"].get("time") == "22.500"
    (failure,) = tests["densenet121:standard"]
    assert (failure.tag, failure.get("type")) == ("failure", "partly")
    assert failure.text == "leakage of balanced_accuracy 0.3"
    assert tests["convnext_atto:standard"].find("skipped").get("message").startswith("inconcl")
    missing = tests["vgg11_bn:standard"]
    assert missing.find("skipped").get("message") == "no weights; give --weights FILE"
    assert missing.get("time") is None


def test_reports_are_private_and_whole(tmp_path, partly):
    folder = tmp_path / "new" / "verify"
    path = write_reports(partly, folder, PICTURES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {"report.html", "report.json", "report.md"}
    assert {file.name for file in folder.iterdir()} == names
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert json.loads(path.read_text()) == finite(partly)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, partly):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: can't be written"):
        write_reports(partly, tmp_path / "file")


def test_every_verdict_has_an_answer():
    for leaks, verdict in ((0.02, "protected"), (0.3, "partly"), (0.9, "not protected")):
        found = document(cell("resnet18:standard", leaks))
        assert found["verdict"] == verdict
        assert words.summary(found).answer != words.UNDECIDED
    assert {str(verdict) for verdict in Verdict} == {
        "protected",
        "partly",
        "not protected",
        "inconclusive",
    }


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """One real run, and what it wrote."""
    folder = tmp_path_factory.mktemp("reports")
    release = protect(make_set(folder / "images"), folder / "release", "random-noise")
    extra = ("--junit", folder / "verify.xml", "--fail-above", 5)
    return release, extra, medshield("verify", release, *QUICK, *extra)


def test_a_generous_limit_is_met_whatever_the_verdict(verified):
    release, _, run = verified
    report = json.loads((release.with_name("release.private") / "verify/report.json").read_text())
    assert run.code == 0
    assert "NOT PROTECTED" in run.out
    assert "limit: leakage at most 5: met (it reaches " in run.out
    assert report["verdict"] == "not protected"
    assert report["limit"]["met"] is True
    (found,) = report["cells"]
    counting = [one["high"] for one in found["leakage"] if one["counts"]]
    assert len(counting) == 2
    assert report["limit"]["highest"] == max(counting)
    said = ("verdict", "why", "surely_leaks")
    assert found["judged"] == {"basic": {key: found[key] for key in said}}
    assert [one["decides"] for one in found["leakage"]].count(True) == 1


def test_a_real_page_shows_pictures_and_names_no_file(verified):
    release, _, _ = verified
    text = (release.with_name("release.private") / "verify/report.html").read_text()
    page = Page(text)
    assert len(page.named("img")) == 18
    worst = json.loads((release.with_name("release.private") / "verify/report.json").read_text())
    named = {one["path"] for one in worst["worst_files"]}
    assert set(re.findall(r"\d{3}-\d\.png", text)) == named, "the sheet names files"
    key = (release.with_name("release.private") / "generator" / "key").read_text().strip()
    assert key not in text
    assert "Limit: leakage at most 5: met" in page.text


def test_a_real_run_writes_junit(verified):
    root = ET.parse(verified[1][1]).getroot()
    assert root.get("name") == "medshield verify release"
    assert root.get("failures") == "1"
    assert float(root.get("time")) > 0
    assert int(root.get("skipped")) == int(root.get("tests")) - 1 > 0


def test_a_limit_that_is_exceeded_fails_and_pictures_can_be_left_out(verified, tmp_path):
    release, _, _ = verified
    arguments = ("--fail-above", 0.3, "--no-pictures", "-o", tmp_path / "out", "--json")
    run = medshield("verify", release, *QUICK, *arguments)
    assert run.code == 4
    assert json.loads(run.out)["limit"]["met"] is False
    assert Page((tmp_path / "out" / "report.html").read_text()).named("img") == []


def test_a_limit_says_how_far_leakage_reaches_where_that_is_known(partly):
    limit = {"leakage": 0.3, "highest": None, "met": None}
    assert (
        words.limit_text({**partly, "limit": limit}) == "limit: leakage at most 0.3: can't be told"
    )
    reached = words.limit_text({**partly, "limit": {**limit, "highest": 0.5, "met": False}})
    assert reached == "limit: leakage at most 0.3: not met (it reaches 0.50)"


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "30"])
def test_a_limit_must_be_one(verified, limit):
    run = medshield("verify", verified[0], f"--fail-above={limit}")
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert f"--fail-above {limit}: expected a leakage above 0" in run.err


@pytest.mark.parametrize(
    ("option", "place", "why"),
    [
        ("--junit", "release/v.xml", "lies in"),
        ("--junit", "images/v.xml", "lies in"),
        ("--junit", ".", "is a folder"),
        ("--junit", "no/v.xml", "its folder does not exist"),
        ("-o", "release/report", "lies in"),
        ("-o", "images", "lies in"),
    ],
)
def test_reports_go_neither_into_the_release_nor_into_the_source(verified, option, place, why):
    release, _, _ = verified
    run = medshield("verify", release, option, release.parent / place)
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert f"{option} {release.parent / place}: {why}" in run.err
