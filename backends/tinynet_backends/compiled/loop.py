"""The compiled loops: over the records of a program, and over parts of another thread's records.

The pool is words that threads share. Each thread has adjacent parts of the current record, the same share as of every other
record, so that it finds in its core's cache what it wrote; a thread that has finished its own parts takes those of others. Its
ticket is a word: the next of its parts in the lower half, their end in the upper half, so one atomic addition claims a part.
Another word counts the parts that are done, one the records so far, and one says whether a program is running: a helper may
then have nothing to do for a while, and must not fall asleep.
"""

from __future__ import annotations

from numba import njit, types
from tinynet_backends.compiled.intrinsics import call, fetch_add, load, pause, pointer, store

# words of the pool; those that several threads write have cache lines of their own
_LINE = 8
THREADS, _KERNEL, _ARGS, _PARTS, _OWNERS, _RECORD, _DONE, RUNNING, _TICKETS = 0, 1, 2, 3, 4, 8, 16, 24, 32
_PATIENCE = 32  # turns of about 40 ns
HEAD, SIZE, STEPS, TABLE = 7, 4, 5, 6  # words before the moves of a chain, and three of them


def pool_size(threads: int) -> int:
    """The words of a pool for so many threads."""
    return _TICKETS + _LINE * threads


@njit
def _share_out(pool, kernel, args, parts):
    """Give the parts of a record to the threads; the first ones have one more if they cannot have the same number."""
    words = pointer(types.int64, pool)
    threads = words[THREADS]
    words[_KERNEL], words[_ARGS], words[_PARTS], words[_OWNERS] = kernel, args, parts, min(threads, parts)
    store(pool + 8 * _DONE, 0)
    first = 0
    for thread in range(min(threads, parts)):
        end = first + parts // threads + (thread < parts % threads)
        store(pool + 8 * (_TICKETS + _LINE * thread), end << 32 | first)
        first = end
    store(pool + 8 * _RECORD, words[_RECORD] + 1)


@njit
def _work(pool, thread):
    """Do the parts of a thread, then what is left of others'. A thread without parts waits first, so that their owners begin."""
    words = pointer(types.int64, pool)
    owners = words[_OWNERS]
    if thread >= owners:
        for _ in range(_PATIENCE):
            pause()
        owners = words[_OWNERS]
    for i in range(owners):
        ticket = pool + 8 * (_TICKETS + _LINE * ((thread + i) % owners))
        claim = load(ticket)
        while (claim & 0xFFFFFFFF) < (claim >> 32):
            claim = fetch_add(ticket, 1)
            part = claim & 0xFFFFFFFF
            if part < (claim >> 32):
                call(words[_KERNEL], words[_ARGS], part, words[_PARTS])
                fetch_add(pool + 8 * _DONE, 1)


def chain(at, part, parts):
    """All records with one share of their rows, then with the next.

    The arguments are [shares, room, moves, changes, n, steps, table, moves …, changes …, n words of records]. ``room`` has n
    words for each part, its copy of the records. A move is a place among the records' words, and the bytes of a share: the
    address there is changed so that all shares of a part lie where its first one does, and stay in its core's cache. With
    ``steps``, a share goes through the records that many times; a change is a place among their words whose value in each step
    is in that step's row of the table.
    """
    head = pointer(types.int64, at)
    shares, moves, changes, n, steps = head[0], head[2], head[3], head[4], head[5]
    move = pointer(types.int64, at + 8 * HEAD)
    change = pointer(types.int64, at + 8 * (HEAD + 2 * moves))
    words = pointer(types.int64, at + 8 * (HEAD + 2 * moves + changes))
    first, last = head[1] + 8 * n * part, head[1] + 8 * n * (part + 1)
    now = pointer(types.int64, first)
    for i in range(n):
        now[i] = words[i]
    own = shares * part // parts
    for share in range(own, shares * (part + 1) // parts):
        for i in range(moves):
            now[move[2 * i]] = words[move[2 * i]] + (own - share) * move[2 * i + 1]
        for step in range(max(steps, 1)):
            if steps > 0:
                row = pointer(types.int64, head[6] + 8 * changes * step)
                for i in range(changes):
                    now[change[i]] = row[i]
            place = first
            while place < last:
                record = pointer(types.int64, place)
                call(record[1], place + 24, share, shares)
                place += 8 * record[0]


def each(at, part, parts):
    """A kernel on each row.

    The arguments are [count, kernel, n, room, n steps, n words]: the kernel's n words for row 0, and by how much they grow
    from row to row.
    """
    head, n = pointer(types.int64, at), pointer(types.int64, at)[2]
    steps, words = pointer(types.int64, at + 32), pointer(types.int64, at + 32 + 8 * n)
    for row in range(head[0] * part // parts, head[0] * (part + 1) // parts):
        place = head[3] + 8 * n * row
        now = pointer(types.int64, place)
        for i in range(n):
            now[i] = words[i] + row * steps[i]
        call(head[1], place, 0, 1)


def run(first, last, pool):
    """All records between two addresses, with the threads of a pool or, where that is 0, alone."""
    place = first
    while place < last:
        record = pointer(types.int64, place)
        kernel, parts = record[1], record[2]
        if parts == 1 or pool == 0:
            for part in range(parts):
                call(kernel, place + 24, part, parts)
        else:
            _share_out(pool, kernel, place + 24, parts)
            _work(pool, 0)
            while load(pool + 8 * _DONE) < parts:
                pause()
        place += 8 * record[0]
    if pool != 0:
        store(pool + 8 * RUNNING, 0)  # now: the caller may have to wait for Python's lock


def assist(pool, thread, spins):
    """What a helper does: its parts of each record that appears, until none has while it looked ``spins`` times."""
    idle, seen = 0, -1
    while idle < spins:
        record = load(pool + 8 * _RECORD)
        if record != seen:
            seen = record
            _work(pool, thread)
            idle = 0
        else:
            if load(pool + 8 * RUNNING) == 0:
                idle += 1
            pause()
