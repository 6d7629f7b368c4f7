"""Blocks of executed machine code, and how qemu's log is read."""

from __future__ import annotations

from lutc.cost_model.block_counts import _Log
from lutc.cost_model.machine_code import Block, Listing, blocks

_CODE = ["mov x0, #5", "ldr q0, [x1], #16", "ldr q1, [sp, #32]", "subs x0, x0, #1", "b.ne .", "str q0, [x2]", "ret"]
_LISTING = Listing({0x1000 + 4 * i: text for i, text in enumerate(_CODE)}, {0x1000: "kernel"})


def test_blocks_are_cut_at_counts_and_branches() -> None:
    counts = {0x1000: 1, **{0x1004 + 4 * i: 5 for i in range(4)}, 0x1014: 1, 0x1018: 1}
    found = blocks(_LISTING, counts)
    assert found == [Block(("mov x0, #5",), 1), Block(tuple(_CODE[1:5]), 5), Block(tuple(_CODE[5:]), 1)]
    assert [block.executed for block in found] == [1, 20, 2]
    assert [block.stack_accesses for block in found] == [0, 1, 0]


def test_a_branch_ends_a_block_of_equal_counts() -> None:
    assert [len(block.instructions) for block in blocks(_LISTING, dict.fromkeys(_LISTING.instructions, 3))] == [5, 2]


def test_instructions_that_were_not_executed_cut_too() -> None:
    assert len(blocks(_LISTING, {0x1004: 2, 0x100C: 2})) == 2


_TEXT = """\
----------------
IN: lutc_call_marker
0x00002000:  d65f03c0  ret

Trace 0: 0x7f09 [0000000001009731/0000000000002000/00000001/00000200] lutc_call_marker
----------------
IN: kernel
0x00001000:  d28000a0  movz     x0, #5
0x00001004:  3cc10420  ldr      q0, [x1], #0x10
0x00001008:  54000000  b.ne     #0x1004

Trace 0: 0x7f0a [0000000001009731/0000000000001000/00000001/00000200] kernel
----------------
IN: kernel
0x00001004:  OBJD-T: 2004c13c00000054

Trace 0: 0x7f0b [0000000001009731/0000000000001004/00000001/00000200] kernel
Trace 0: 0x7f0b [0000000001009731/0000000000001004/00000001/00000200] kernel
Trace 0: 0x7f09 [0000000001009731/0000000000002000/00000001/00000200] lutc_call_marker
Trace 0: 0x7f0c [0000000001009731/0000000000001000/00000001/00000200] outside
Trace 0: 0x7f09 [0000000001009731/0000000000002000/00000001/00000200] lutc_call_marker
Trace 0: 0x7f0a [0000000001009731/0000000000001000/00000001/00000200] kernel
Trace 0: 0x7f09 [0000000001009731/0000000000002000/00000001/00000200] lutc_call_marker
error: something went wrong
"""


def test_the_log_in_pieces_of_any_size() -> None:
    """Blocks that overlap (a loop entered from above), with and without a disassembler, two calls between markers."""
    lines = _TEXT.encode().splitlines(keepends=True)
    for step in (1, 2, 5, len(lines)):
        log = _Log(0x2000)
        for start in range(0, len(lines), step):
            log.read(b"".join(lines[start : start + step]))
        first, second = log.counts()
        assert dict(first) == {0x1000: 1, 0x1004: 3, 0x1008: 3}
        assert dict(second) == {0x1000: 1, 0x1004: 1, 0x1008: 1}
        assert log.other == ["error: something went wrong"]
