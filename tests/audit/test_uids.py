"""New UIDs are one function of the old ones, over all files of a release."""

from medshield.audit.uids import UidMap


def told(*pairs):
    uids = UidMap()
    for path, old, new in pairs:
        uids.add(path, old, new)
    return uids.faults()


def test_the_same_new_uid_everywhere():
    pairs = [("a.dcm", b"1.2.3", b"2.25.7"), ("b.dcm", b"1.2.3", b"2.25.7")]
    assert told(*pairs, ("b.dcm", b"1.2.4", b"1.2.4"), ("c.dcm", b"", b"")) == []


def test_a_reference_that_was_forgotten():
    found = told(("a.dcm", b"1.2.3", b"2.25.7"), ("b.dcm", b"1.2.3", b"1.2.3"))
    assert found == [("b.dcm", "a UID that is another one in a.dcm")]


def test_one_uid_for_two_instances():
    found = told(("a.dcm", b"1.2.3", b"2.25.7"), ("b.dcm", b"1.2.4", b"2.25.7"))
    assert found == [("b.dcm", "one UID for two of the source, with a.dcm")]


def test_several_in_one_value():
    found = told(("a.dcm", rb"1.2.3\1.2.4", rb"2.25.7\2.25.8"), ("b.dcm", b"1.2.4", b"2.25.9"))
    assert found == [("b.dcm", "a UID that is another one in a.dcm")]


def test_no_uid_is_told():
    found = told(("a.dcm", b"1.2.3", b"2.25.7"), ("b.dcm", b"1.2.3", b"2.25.8"))
    assert not any(uid in str(found) for uid in ("1.2.3", "2.25"))
