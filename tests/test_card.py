"""The card of a release: Croissant metadata and a page, by the eyes of other programs."""

import fnmatch
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import mlcroissant
import pytest
import rdflib

import medshield as package
from medshield.cli import cli
from medshield.manifest import checksum_entry, checksum_line
from medshield.release_card import finished
from medshield.release_card.file_sets import MOST_PATTERNS, patterns_for
from tests import report_documents
from tests.builders import (
    EIGHT,
    PATIENT,
    in_classes,
    manifest,
    medshield,
    png,
    segmented,
    tree,
    with_table,
)

SEEDED = (*EIGHT, "--seed", "5")
CARD = ("croissant.json", "DATACARD.md")
TOLD = (
    *("--license", "https://creativecommons.org/licenses/by-nc/4.0/", "--creator", "A Hospital"),
    *("--contact", "data@example.org", "--url", "https://example.org/ct", "--cite-as", "A. Paper."),
    *("--published", "2026-05-31", "--release-version", "1.0.0"),
)
ROOT = Path(__file__).resolve().parents[1]


def released(tmp_path, *options, source=None):
    source = source or with_table(in_classes(tmp_path / "in", (".png", ".dcm")), [], "a,b", "n.csv")
    run = medshield("protect", source, "-o", tmp_path / "out", *SEEDED, "--card", *options)
    assert run.code in (0, 3), run.err
    return tmp_path / "out"


def metadata(release):
    """The metadata as the library of MLCommons reads them, and of what it warns."""
    found = mlcroissant.Dataset(release / "croissant.json").metadata
    return found, found.ctx.issues


def document(release):
    return json.loads((release / "croissant.json").read_text())


def assert_checked(release, *options):
    run = medshield("check", release, *options)
    assert run.code == 0, run.out


def test_a_card_is_part_of_the_release_and_changes_nothing_else_of_it(tmp_path, program):
    release = released(tmp_path)
    source = tmp_path / "in"
    run = medshield("protect", source, "-o", tmp_path / "plain", *SEEDED)
    assert run.code == 0
    without, carded = tree(tmp_path / "plain"), tree(release)
    assert set(carded) - set(without) == set(CARD)
    same = set(without) - {"SHA256SUMS"}
    assert {path: carded[path] for path in same} == {path: without[path] for path in same}
    assert_checked(release, "--source", source)
    sums = (release / "SHA256SUMS").read_text()
    assert all(f"  {name}\n" in sums for name in CARD)
    subprocess.run(
        [program("sha256sum"), "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=release, check=True
    )


def test_protect_says_that_there_is_a_card_and_what_it_lacks(tmp_path):
    source = in_classes(tmp_path / "in")
    run = medshield("protect", source, *SEEDED, "--card")
    assert "croissant.json and DATACARD.md; licence and contact are missing: medshield card" in (
        run.out
    )
    shutil.rmtree(tmp_path / "in-protected")
    shutil.rmtree(tmp_path / "in-protected.private")
    run = medshield("protect", source, *SEEDED, "--card", "--json")
    assert run.json["card"] == list(CARD)


def test_croissant_is_what_mlcommons_own_reader_takes(tmp_path, caplog):
    release = released(tmp_path)
    with caplog.at_level(logging.WARNING):
        issues = metadata(release)[1]
    assert "not standard" not in caplog.text  # the JSON-LD context is the specification's
    assert not issues.errors
    assert "http://mlcommons.org/croissant/1.0" in str(document(release)["conformsTo"])
    records = list(mlcroissant.Dataset(release / "croissant.json").records("files"))
    by_path = {record["files/path"].decode(): record for record in records}
    for path, line in manifest(release).items():
        read = by_path.pop(path)
        assert read["files/status"].decode() == line["status"]
        assert read["files/sha256"].decode() == line["sha256"]
        assert read["files/bytes"] == line["bytes"]
        for name in ("ssim", "psnr", "epsilon_stored", "max_abs_delta"):
            wanted = None if line[name] is None else pytest.approx(line[name])
            assert read[f"files/{name}"] == wanted
    assert not by_path


def test_a_validator_warns_of_what_the_owner_has_not_said_and_only_then(tmp_path):
    release = released(tmp_path)
    missing = "citeAs", "datePublished", "license", "version"
    said = " ".join(metadata(release)[1].warnings)
    assert all(name in said or re.sub("([A-Z])", r"_\1", name).lower() in said for name in missing)
    assert (release / "DATACARD.md").read_text().count("**TO FILL IN:") == 7
    run = medshield("card", release, *TOLD, "--name", "CT slices")
    assert run.code == 0, run.err
    found, issues = metadata(release)
    assert not issues.errors
    assert not issues.warnings
    assert found.name == "CT slices"
    assert found.license == ["https://creativecommons.org/licenses/by-nc/4.0/"]
    assert found.creators[0].name == "A Hospital"
    assert str(found.date_published.date()) == "2026-05-31"
    page = (release / "DATACARD.md").read_text()
    assert "TO FILL IN" not in page
    assert "data\\@example.org" in page
    assert "data@example.org" in document(release)["rai:dataUseCases"]
    assert_checked(release, "--source", tmp_path / "in")


def test_a_graph_reader_finds_the_statements(tmp_path):
    """JSON-LD by a reader that knows nothing of Croissant."""
    release = released(tmp_path)
    graph = rdflib.Graph()
    graph.parse(data=json.dumps(document(release)), format="json-ld")
    sc, cr = (
        rdflib.Namespace("https://schema.org/"),
        rdflib.Namespace("http://mlcommons.org/croissant/"),
    )
    (dataset,) = graph.subjects(rdflib.RDF.type, sc.Dataset)
    assert str(graph.value(dataset, sc.name)) == "out"
    conforms = graph.value(dataset, rdflib.URIRef("http://purl.org/dc/terms/conformsTo"))
    assert str(conforms) == "http://mlcommons.org/croissant/1.0"
    rai = rdflib.Namespace("http://mlcommons.org/croissant/RAI/")
    limits = " ".join(map(str, graph.objects(dataset, rai.dataLimitations)))
    assert "Do not diagnose" in limits
    assert "permission" in str(graph.value(dataset, rai.dataUseCases))
    done = str(graph.value(dataset, rai.dataManipulationProtocol))
    assert "method synthetic" in done
    assert "8/255" in done
    parts = list(graph.objects(dataset, sc.distribution))
    assert {str(graph.value(part, sc.sha256)) for part in parts} >= {
        line.split("  ")[0]
        for line in (release / "SHA256SUMS").read_text().splitlines()
        if line.endswith("medshield-manifest.jsonl")
    }
    sets = [part for part in parts if graph.value(part, cr.includes)]
    assert {str(graph.value(part, sc.name)) for part in sets} == {
        "protected-png",
        "protected-dicom",
        "copied-csv",
    }


def files_in(release, found, reader):
    """Names by `name` of the set, as one or another kind of reader understands globs."""
    paths = [p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file()]
    if reader == "fnmatch":
        return {p for p in paths for glob in found if fnmatch.fnmatchcase(p, glob)}
    return {
        p.relative_to(release).as_posix()
        for glob in found
        for p in release.glob(glob)
        if p.is_file()
    }


@pytest.mark.parametrize("reader", ["fnmatch", "pathlib"])
def test_file_sets_tell_images_from_masks(tmp_path, reader):
    source = segmented(tmp_path / "in")
    for name in ("README.md", "[odd] *name?.txt"):
        (source / name).write_text("words")
    release = released(tmp_path, source=source)
    sets = {s["@id"]: s["includes"] for s in document(release)["distribution"] if "includes" in s}
    lines = manifest(release)
    assert sorted(sets) == ["copied-md", "copied-png", "copied-txt", "protected-png"]
    for name, globs in sets.items():
        status, kind = name.split("-")
        wanted = {
            path
            for path, line in lines.items()
            if line["status"] == status and PurePosixPath(path).suffix == f".{kind}"
        }
        assert files_in(release, globs, reader) - {*CARD} == wanted
    assert sets["protected-png"] == ["images/*.png"]


def test_patterns_are_as_few_as_tell_the_files():
    assert patterns_for(["a/x.png", "b/c/y.png", "z.png"], ["a/x.csv"]).globs == (
        "**/*.png",
        "*.png",
    )
    assert patterns_for(["i/a/1.png", "i/b/2.png"], ["m/a/1.png"]).globs == ("i/**/*.png",)
    assert patterns_for(["p/1/i.png", "p/2/i.png"], ["p/m/i.png"]).globs == (
        "p/1/*.png",
        "p/2/*.png",
    )
    assert patterns_for(["v.nii.gz"], ["t.csv.gz"]).globs == ("*.nii.gz",)
    assert patterns_for(["a/IM1", "b/IM2"], ["SHA256SUMS", "c/t.csv"]).globs == ("a/*", "b/*")
    assert patterns_for([os.fsdecode(b"caf\xe9/1.png")], ["m/1.png"]).globs == ("caf?/*.png",)


def test_patterns_that_match_more_say_so():
    found = patterns_for(["a.png", "b.png"], ["c.png", "d.csv", "m/e.png"])
    assert (found.globs, found.others) == (("*.png",), 2)
    many = [f"{n}/image.png" for n in range(MOST_PATTERNS + 1)]
    found = patterns_for(many, ["mask/image.png"])
    assert (found.globs, found.others) == (("**/*.png",), 1)


def test_a_set_that_no_pattern_tells_says_so_in_the_metadata(tmp_path):
    source = tmp_path / "in"
    (source / "flat").mkdir(parents=True)
    for seed in range(4):
        png(source / "flat" / f"{seed}.png", seed)
    for seed in range(4):
        shutil.copy(source / "flat" / f"{seed}.png", source / "flat" / f"{seed}_mask.png")
        mask = segmented(tmp_path / f"m{seed}") / "masks" / "case0.png"
        shutil.copy(mask, source / "flat" / f"{seed}_mask.png")
    release = released(tmp_path, source=source)
    (found,) = [s for s in document(release)["distribution"] if s["@id"] == "protected-png"]
    assert "also match 4 other files" in found["description"]


def test_nothing_private_is_on_a_card(tmp_path):
    source = in_classes(tmp_path / "secret-ward" / "in", (".dcm",), classes=("classA", "classB"))
    (source / "classA" / "broken.png").write_bytes(b"no image")
    release = released(tmp_path, source=source)
    words = (release / "croissant.json").read_text() + (release / "DATACARD.md").read_text()
    for secret in (PATIENT, str(tmp_path), "secret-ward", "classA", "broken.png", os.uname()[1]):
        assert secret not in words
    key = (release.with_name("out.private") / "generator" / "key").read_text().strip()
    assert key not in words


def test_the_page_has_the_figures_of_the_manifest(tmp_path):
    source = in_classes(tmp_path / "in", each=2)
    (source / "benign" / "broken.png").write_bytes(b"no image")
    (source / "benign" / "unknown.bin").write_bytes(b"?")
    release = released(tmp_path, source=source)
    page = (release / "DATACARD.md").read_text()
    assert re.search(r"\| protected \| 4 \|", page)
    assert re.search(r"\| refused \| 1 \|", page)
    assert re.search(r"\| omitted \| 1 \|", page)
    assert "| copied |" not in page
    assert "| PNG 8-bit | 0 to 255 | 8/255 of 255 |" in page
    records = [r for r in manifest(release).values() if r["status"] == "protected"]
    assert f"and {min(r['ssim'] for r in records):.3f} in the worst file" in page
    furthest = max(r["max_abs_delta"] / r["epsilon_stored"] for r in records)
    assert f"{100 * furthest:.0f} % of its bound" in page
    assert "Do not diagnose from these images" in page


@pytest.mark.parametrize("name", ["croissant.json", "DATACARD.md", "datacard.MD", "Croissant.JSON"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_source_that_has_such_a_file_is_refused_in_one_line(tmp_path, name, dry):
    source = in_classes(tmp_path / "in")
    (source / name).write_text("{}")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--card", *dry)
    assert run.code == 2
    assert len(run.err.strip().splitlines()) == 1
    assert f"{source / name}: has the name of a file that --card writes" in run.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT)  # the source's own is copied
    assert run.code == 0, run.err
    assert (tmp_path / "out" / name).read_text() == "{}"
    assert_checked(tmp_path / "out", "--source", source)
    run = medshield("card", tmp_path / "out")
    assert run.code == 2
    assert f"{name}: comes from the source" in run.err


def test_a_folder_of_such_a_name_is_refused_as_well(tmp_path):
    source = in_classes(tmp_path / "in")
    (source / "benign").rename(source / "DataCard.md")
    run = medshield("protect", source, "-o", tmp_path / "out", *EIGHT, "--card")
    assert run.code == 2
    assert f"{source / 'DataCard.md'}: has the name of a file that --card writes" in run.err


def test_a_release_that_is_protected_again_gets_a_card_of_its_own(tmp_path):
    first = released(tmp_path)
    again = tmp_path / "again"
    run = medshield("protect", first, "-o", again, *EIGHT, "--card")
    assert run.code == 0, run.err
    assert manifest(again)["croissant.json"]["status"] == "omitted"
    assert document(again)["name"] == "again"
    assert_checked(again, "--source", first)
    bare = tmp_path / "bare"
    assert medshield("protect", first, "-o", bare, *EIGHT).code == 0
    assert not (bare / "croissant.json").exists()
    assert_checked(bare, "--source", first)


def test_shares_and_a_resumed_run_give_the_same_card(tmp_path, monkeypatch):
    source = in_classes(tmp_path / "in", (".png", ".jpg"))
    whole = tmp_path / "whole" / "out"
    assert medshield("protect", source, "-o", whole, *SEEDED, "--card").code == 0
    shared = tmp_path / "shared" / "out"
    for share in ("2/2", "1/2"):
        arguments = ("protect", source, "-o", shared, *SEEDED, "--card", "--shard", share)
        assert medshield(*arguments).code == 0
    assert medshield("merge", shared).code == 0
    assert tree(shared) == tree(whole)

    resumed = tmp_path / "resumed" / "out"
    with monkeypatch.context() as patch:
        from medshield import release_run

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr(release_run.os, "sync", killed)
        run = medshield("protect", source, "-o", resumed, *SEEDED, "--card")
        assert run.code == 130
    assert not resumed.exists()
    run = medshield("protect", source, "-o", resumed, *SEEDED, "--resume")
    assert run.code == 2
    assert "other settings (card)" in run.err
    assert medshield("protect", source, "-o", resumed, *SEEDED, "--card", "--resume").code == 0
    assert tree(resumed) == tree(whole)


def test_check_sees_what_is_wrong_with_a_card(tmp_path):
    release = released(tmp_path)

    def faults(damage):
        broken = tmp_path / "broken"
        shutil.copytree(release, broken, symlinks=True)
        damage(broken)
        run = medshield("check", broken, "--json")
        shutil.rmtree(broken)
        assert run.code == 4
        return {(fault["path"], fault["fault"]) for fault in run.json["faults"]}

    def renewed(broken, name):
        from medshield.manifest import sha256

        sums = broken / "SHA256SUMS"
        lines = [x for x in sums.read_text().splitlines(True) if not x.endswith(f"  {name}\n")]
        sums.write_text("".join([*lines, checksum_line(sha256(broken / name), name)]))

    def edited(broken):
        (broken / "DATACARD.md").write_text("other words")

    def stale(broken):
        text = (broken / "croissant.json").read_text()
        digest = document(broken)["distribution"][0]["sha256"]
        (broken / "croissant.json").write_text(text.replace(digest, "0" * 64))
        renewed(broken, "croissant.json")

    def picture(broken):
        shutil.copy(tmp_path / "in" / "benign" / "0.png", broken / "DATACARD.md")
        renewed(broken, "DATACARD.md")

    def linked(broken):
        (broken / "DATACARD.md").rename(tmp_path / "page")
        (broken / "DATACARD.md").symlink_to(tmp_path / "page")

    def unlisted(broken):
        sums = broken / "SHA256SUMS"
        kept = [x for x in sums.read_text().splitlines(True) if "DATACARD" not in x]
        sums.write_text("".join(kept))

    assert ("DATACARD.md", "SHA256SUMS speaks of it, but it is missing") in faults(
        lambda broken: (broken / "DATACARD.md").unlink()
    )
    ((path, fault),) = faults(edited)
    assert path == "DATACARD.md"
    assert "if you edited it, `medshield card RELEASE --edited` renews that" in fault
    ((path, fault),) = faults(stale)
    assert (path, fault[:28]) == ("croissant.json", "speaks of another manifest t")
    assert faults(picture) == {("DATACARD.md", "an image, where a card should be")}
    assert ("DATACARD.md", "not a file, which a card is") in faults(linked)
    assert faults(unlisted) == {("DATACARD.md", "in the release, but not in the manifest")}


def test_a_card_that_was_edited_is_kept_or_replaced_only_on_request(tmp_path):
    release = released(tmp_path)
    page = release / "DATACARD.md"
    page.write_text(page.read_text().replace("**TO FILL IN: whom to ask, and how**", "Dr. Who"))
    before = tree(release)
    run = medshield("card", release, *TOLD)
    assert run.code == 2
    assert "DATACARD.md: holds a card that says more than `protect --card` writes" in run.err
    assert tree(release) == before
    run = medshield("card", release, "--edited")
    assert run.code == 0, run.err
    assert "6 lines of DATACARD.md say TO FILL IN" in run.out
    assert (tree(release)["DATACARD.md"], tree(release)["croissant.json"]) == (
        before["DATACARD.md"],
        before["croissant.json"],
    )
    assert_checked(release, "--source", tmp_path / "in")
    assert medshield("card", release, *TOLD).code == 2
    assert medshield("card", release, *TOLD, "--overwrite").code == 0
    assert b"Dr. Who" not in tree(release)["DATACARD.md"]
    assert_checked(release)
    assert medshield("card", release, *TOLD).code == 0  # the same again


def test_a_card_for_a_release_without_one_by_a_file_of_options(tmp_path):
    source = in_classes(tmp_path / "in")
    assert medshield("protect", source, "-o", tmp_path / "out", *EIGHT).code == 0
    (tmp_path / "card.toml").write_text('[card]\nlicense = "Our terms"\ncontact = "desk 4"\n')
    run = medshield("card", tmp_path / "out", "--config", tmp_path / "card.toml", "--json")
    assert run.json == {"release": str(tmp_path / "out"), "card": list(CARD), "to_fill_in": 5}
    assert document(tmp_path / "out")["license"] == {
        "@type": "sc:CreativeWork",
        "name": "Our terms",
    }
    assert not metadata(tmp_path / "out")[1].errors
    assert_checked(tmp_path / "out", "--source", source)


def test_a_killed_card_is_finished_by_the_same_call(tmp_path, monkeypatch):
    release = released(tmp_path)
    replace, done = finished._replace, []

    def killed(path, content):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(replace(path, content))

    with monkeypatch.context() as patch:
        patch.setattr(finished, "_replace", killed)
        assert medshield("card", release, *TOLD).code == 130
    run = medshield("check", release)
    assert run.code == 4
    assert medshield("card", release, *TOLD).code == 0
    assert_checked(release, "--source", tmp_path / "in")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out", "out.private"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--url", "ftp://x"), "--url ftp://x: no address"),
        (("--published", "31.5.2026"), "--published 31.5.2026: no day; expected YYYY-MM-DD"),
        (("--published", "20260531"), "expected YYYY-MM-DD"),
        (("--contact", "  "), "--contact: is empty"),
        (("--edited", "--license", "x"), "--edited: takes the card as it is"),
        (("--verdict",), "report.json: can't be read (No such file or directory)"),
    ],
)
def test_what_can_not_be_used_is_one_line(tmp_path, options, words):
    release = released(tmp_path, source=in_classes(tmp_path / "in"))
    before = tree(release)
    run = medshield("card", release, *options)
    assert run.code == 2
    assert len(run.err.strip().splitlines()) == 1
    assert words in run.err
    assert tree(release) == before


def test_edited_files_that_are_no_card_are_refused(tmp_path):
    release = released(tmp_path, source=in_classes(tmp_path / "in"))
    (release / "croissant.json").write_text("{ unfinished")
    run = medshield("card", release, "--edited")
    assert (run.code, "croissant.json: not a JSON object" in run.err) == (2, True)
    (release / "croissant.json").unlink()
    run = medshield("card", release, "--edited")
    assert (run.code, "croissant.json: missing, and --edited takes" in run.err) == (2, True)


def test_new_checksums_hide_no_damage(tmp_path):
    release = released(tmp_path)
    summary = release / "medshield.json"
    summary.write_text(summary.read_text().replace("8/255", "4/255"))
    before = tree(release)
    run = medshield("card", release, *TOLD)
    assert run.code == 2
    assert "SHA256SUMS: does not agree with the manifest" in run.err
    assert tree(release) == before
    assert medshield("card", tmp_path / "in").code == 2  # no release at all


def test_a_verdict_is_told_on_request(tmp_path):
    release = released(tmp_path)
    folder = release.with_name("out.private") / "verify"
    folder.mkdir()
    facts = json.loads((release / "medshield.json").read_text())
    same = {name: facts[name] for name in ("method", "epsilon", "task")}
    found = report_documents.document(report_documents.cell("resnet18", 0.05), release="out") | same
    (folder / "report.json").write_text(json.dumps(found))
    assert "is not stated here" in (release / "DATACARD.md").read_text()
    assert medshield("card", release, *TOLD).code == 0
    assert "is not stated here" in (release / "DATACARD.md").read_text()
    run = medshield("card", release, *TOLD, "--verdict", "--overwrite")
    assert run.code == 0, run.err
    page = (release / "DATACARD.md").read_text()
    assert f"Verdict of medshield verify: {found['verdict']}" in page
    assert "is not stated here" not in page
    assert_checked(release)
    (folder / "report.json").write_text(json.dumps(found | {"epsilon": "1/255"}))
    run = medshield("card", release, *TOLD, "--verdict", "--overwrite")
    assert run.code == 2
    assert "tells of another release (epsilon)" in run.err


def test_lines_of_checksums_are_read_as_they_are_written():
    for path in ("a.png", "two  spaces", "new\nline", "back\\slash\\n", "\r", os.fsdecode(b"\xe9")):
        line = checksum_line("0" * 64, path)
        assert checksum_entry(line.removesuffix("\n")) == (path, "0" * 64)
    for line in ("", "0" * 64, "z" * 64 + "  a", "0" * 64 + "  "):
        with pytest.raises(ValueError, match="no line"):
            checksum_entry(line)


def test_a_card_starts_without_torch():
    code = "import sys, medshield.release_card, medshield.bagging; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_page_on_publishing_lists_all_that_an_owner_can_say():
    text = (ROOT / "docs" / "publishing.md").read_text()
    listed = re.findall(r"^\| `(--[a-z-]+)` \|", text, re.MULTILINE)
    known = {name for option in cli.commands["card"].params for name in option.opts}
    general = {
        "--overwrite",
        "--edited",
        "--config",
        "--json",
        "--quiet",
        "--verbose",
        "--log-file",
    }
    assert sorted(listed) == sorted(known - general - {"release", "-q", "-v"})
    assert f"more than {MOST_PATTERNS} of them" in text


def test_the_python_functions_do_what_the_commands_do(tmp_path):
    source = in_classes(tmp_path / "in")
    here, there = tmp_path / "here" / "out", tmp_path / "there" / "out"
    assert medshield("protect", source, "-o", here, *SEEDED, "--card").code == 0
    assert medshield("card", here, "--license", "Our terms", "--release-version", "2.0").code == 0
    outcome = package.protect(
        source, output=there, method="synthetic", eps="8/255", seed=5, card=True
    )
    assert outcome.card == CARD
    assert package.card(there, license="Our terms", release_version="2.0").to_fill_in == 5
    assert tree(there) == tree(here)
    assert package.bag(there, info="Source-Organization: A Hospital").files == len(tree(there))
    assert medshield("bag", here, "--info", "Source-Organization: A Hospital").code == 0
    assert tree(there.with_name("out-bag")) == tree(here.with_name("out-bag"))
    with pytest.raises(package.InputError, match="--edited: takes the card as it is"):
        package.card(there, edited=True, verdict=True)
