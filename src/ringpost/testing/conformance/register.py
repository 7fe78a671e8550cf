"""Notes: a small register with versions and leases, compared and set."""

import asyncio

from ringpost.store.port import Note
from ringpost.testing.conformance.suite import Chapter, Subject, holds, same

CHAPTER = Chapter("notes")


async def version(subject: Subject, name: str) -> int:
    return (await subject.store.notes(name))[0].version


@CHAPTER.case()
async def a_note_can_be_read(subject: Subject) -> None:
    holds("written", await subject.store.note_put(Note("a/1", b'{"x":1}')))
    found = await subject.store.notes("a/1")
    same("as it was", [(note.name, note.value, note.lease_s) for note in found], [("a/1", b'{"x":1}', None)])
    holds("with a version", found[0].version > 0)


@CHAPTER.case()
async def notes_are_listed_by_prefix(subject: Subject) -> None:
    for name in ("b/2", "a/2", "a/1", "ab", "a_1", "a%1"):
        await subject.store.note_put(Note(name, name.encode()))
    found = [note.name for note in await subject.store.notes("a/")]
    same("in order, those that begin so", found, ["a/1", "a/2"])
    same("all", len(await subject.store.notes()), 6)
    same("none", await subject.store.notes("c"), [])
    same("letters are letters", [note.name for note in await subject.store.notes("a_")], ["a_1"])


@CHAPTER.case()
async def versions_rise_with_every_write(subject: Subject) -> None:
    versions: list[int] = []
    for number in range(4):
        await subject.store.note_put(Note("a", b"%d" % number))
        versions.append(await version(subject, "a"))
    same("each higher than the last", versions, sorted(set(versions)))
    same("the last value counts", (await subject.store.notes("a"))[0].value, b"3")


@CHAPTER.case()
async def a_note_is_written_only_at_the_expected_version(subject: Subject) -> None:
    same("not where none is", await subject.store.note_put(Note("a", b"1"), expect=3), False)
    holds("where none is expected", await subject.store.note_put(Note("a", b"1"), expect=0))
    same("only once", await subject.store.note_put(Note("a", b"2"), expect=0), False)
    seen = await version(subject, "a")
    holds("over the version that was seen", await subject.store.note_put(Note("a", b"3"), expect=seen))
    same("not over it again", await subject.store.note_put(Note("a", b"4"), expect=seen), False)
    same("and nothing of what was refused", (await subject.store.notes("a"))[0].value, b"3")


@CHAPTER.case()
async def a_leased_note_ends_with_its_lease(subject: Subject) -> None:
    await subject.store.note_put(Note("a", b"1", lease_s=10), expect=0)
    lease_s = (await subject.store.notes("a"))[0].lease_s
    holds("it says that it is leased", lease_s is not None and 0 < lease_s <= 10)
    subject.advance(8)
    same("still there", len(await subject.store.notes("a")), 1)
    same("nobody else gets it", await subject.store.note_put(Note("a", b"2", lease_s=10), expect=0), False)
    subject.advance(3)
    same("over", await subject.store.notes("a"), [])
    holds("then it is free", await subject.store.note_put(Note("a", b"2", lease_s=10), expect=0))
    same("for the next", (await subject.store.notes("a"))[0].value, b"2")


@CHAPTER.case()
async def a_lease_of_a_note_is_renewed_by_writing(subject: Subject) -> None:
    await subject.store.note_put(Note("a", b"1", lease_s=10))
    for _ in range(3):
        subject.advance(8)
        holds("renewed", await subject.store.note_put(Note("a", b"1", lease_s=10), expect=await version(subject, "a")))
    same("there all the time", len(await subject.store.notes("a")), 1)


@CHAPTER.case()
async def an_old_version_is_void_after_the_lease(subject: Subject) -> None:
    await subject.store.note_put(Note("a", b"1", lease_s=10))
    seen = await version(subject, "a")
    subject.advance(11)
    same("who slept through his lease", await subject.store.note_put(Note("a", b"2"), expect=seen), False)
    await subject.store.note_put(Note("a", b"other"), expect=0)
    same("meets another's note", await subject.store.note_put(Note("a", b"2"), expect=seen), False)


@CHAPTER.case()
async def a_dropped_note_is_gone(subject: Subject) -> None:
    await subject.store.note_put(Note("a", b"1"))
    holds("it was there", await subject.store.note_drop("a"))
    same("gone", await subject.store.notes("a"), [])
    same("it can't be dropped twice", await subject.store.note_drop("a"), False)
    holds("and can be written anew", await subject.store.note_put(Note("a", b"2"), expect=0))


@CHAPTER.case()
async def one_of_many_wins(subject: Subject) -> None:
    tries = [subject.store.note_put(Note("leader", b"%d" % number, lease_s=10), expect=0) for number in range(20)]
    same("one writer is first", (await asyncio.gather(*tries)).count(True), 1)
