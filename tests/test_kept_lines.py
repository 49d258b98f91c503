"""Long sequences that lie in files, and the journal that is read back from one."""

import json
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from medshield import journal
from medshield.dataset.annotations import Annotation
from medshield.dataset.scanned import SourceFile
from medshield.errors import InputError
from medshield.journal import Finished, Journal
from medshield.kept_lines import Chosen, spooled
from medshield.manifest import Record


def kept(items):
    return spooled(items, lambda item: json.dumps(item).encode() + b"\n", json.loads)


ITEMS = [0, "one", [2], {"three": 3}, None]


def test_items_come_back_as_they_were():
    lines = kept(iter(ITEMS))
    assert len(lines) == 5
    assert list(lines) == ITEMS
    assert [lines[place] for place in (0, 4, -1, -5)] == [0, None, None, 0]
    with pytest.raises(IndexError):
        lines[5]
    assert lines == ITEMS
    assert lines == kept(ITEMS)
    assert lines != ITEMS[:-1]
    assert lines != "01234"


@pytest.mark.parametrize("part", [slice(1, 4), slice(None, None, 2), slice(-2, None), slice(4, 1)])
def test_slices_are_those_of_a_list(part):
    assert list(kept(ITEMS)[part]) == ITEMS[part]
    assert list(kept(ITEMS)[part][::-1]) == ITEMS[part][::-1]


def test_some_of_them_are_a_sequence_too():
    some = Chosen(kept(ITEMS), [3, 1])
    assert (len(some), some[0], list(some), list(some[1:])) == (
        2,
        {"three": 3},
        ITEMS[3:0:-2],
        ["one"],
    )
    assert not Chosen(kept(ITEMS), [])


def test_another_process_gets_a_tuple():
    assert pickle.loads(pickle.dumps(kept(ITEMS))) == tuple(ITEMS)
    assert pickle.loads(pickle.dumps(kept(ITEMS)[2:])) == tuple(ITEMS[2:])


def test_threads_read_at_the_same_time():
    lines = kept(range(2000))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: sum(lines), range(8))) == [1999000] * 8


def test_nothing_of_it_has_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lines = kept(ITEMS)
    assert list(tmp_path.iterdir()) == []
    assert list(lines) == ITEMS


def test_a_folder_for_temporary_files_that_takes_none_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="TMPDIR"):
        kept(ITEMS)


def test_what_a_scan_found_takes_a_few_bytes_a_file(tmp_path):

    def files(count):
        return (
            SourceFile(
                f"folder/image number {n}.png", "protect", annotation=Annotation(label=n % 2)
            )
            for n in range(count)
        )

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    lines = spooled(files(20_000), SourceFile.to_line, SourceFile.from_line)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sum(file.annotation.label for file in lines) == 10_000
    assert held < 20 * len(lines)


def done(number, status="protected", **facts):
    return Finished(number, Record(f"{number}.png", status, "png", **facts))


def journal_of(path, *finished, count=5):
    return journal.opened(path, finished, count)


def test_a_journal_gives_back_what_it_was_told(tmp_path):
    told = (
        done(3, notes=["a", "b"], psnr=31.5),
        Finished(0, Record("0", "copied", "txt"), "c", True),
    )
    with journal_of(tmp_path / "journal") as log:
        for one in told:
            assert log.add(one) is one
        assert [log[number] for number in (3, 0)] == list(told)
        assert (list(log), len(log), 3 in log, 1 in log) == ([0, 3], 2, True, False)
        assert list(log.finished()) == [told[1], told[0]]
        with pytest.raises(KeyError):
            log[1]
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_of_two_notes_on_a_file_the_later_one_counts(tmp_path):
    with journal_of(tmp_path / "journal", done(1), done(2)) as log:
        log.add(done(1, "refused", reason="signed"))
        assert [one.record.status for one in log.finished()] == ["refused", "protected"]
    with (tmp_path / "journal").open("rb") as file:
        assert Journal(file, 5)[1].record.reason == "signed"


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-9],
        lambda line: b"\xff" + line,
        lambda line: line.replace(b"[1, ", b"[7, "),
        lambda line: line.replace(b"[1, ", b"[-1, "),
        lambda line: line.replace(b"[1, ", b'["1", '),
        lambda line: b"[" * 100_000 + b"\n",
        lambda line: b"\n",
    ],
    ids=["cut", "no text", "beyond", "below", "no number", "brackets", "empty"],
)
def test_a_line_that_tells_nothing_is_passed_over(tmp_path, damage):
    path = tmp_path / "progress.jsonl"
    lines = [done(number).to_line() for number in range(3)]
    path.write_bytes(lines[0] + damage(lines[1]).rstrip(b"\n") + b"\n" + lines[2])
    assert [one.number for one in journal.whole(tmp_path, tmp_path, 5)] == [0, 2]


def test_a_run_that_was_cut_short_begins_with_what_is_whole(tmp_path):
    release = tmp_path / "release"
    release.mkdir()
    (release / "0.png").write_bytes(b"content")
    digest = journal.sha256(release / "0.png")
    (tmp_path / "shares" / "1-of-2").mkdir(parents=True)
    with journal_of(tmp_path / "progress.jsonl", done(0, sha256=digest), done(1, sha256=digest)):
        pass
    with journal_of(tmp_path / "shares" / "1-of-2" / "progress.jsonl", done(4, "refused")):
        pass
    assert [one.number for one in journal.whole(tmp_path, release, 5, wanted={4})] == [4]
    found = journal.whole(tmp_path, release, 5)
    with journal.opened(tmp_path / "progress.jsonl", found, 5) as log:
        assert list(log) == [0, 4]
