"""AArch64 machine code as text, cut into basic blocks with the number of times each was executed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lutc.cost_model.llvm_tools import llvm_tool

FEATURES = "+neon,+dotprod,+i8mm,+fullfp16,+fp16fml,+bf16,+sve,+sve2"
"""What LLVM's tools are to read and price: more than any kernel uses."""

_LINE = re.compile(r"\s*([0-9a-f]+):\s+(\S.*)")
_LABEL = re.compile(r"([0-9a-f]+) <(.+)>:")
_BRANCH = re.compile(r"(?:b|bl|br|blr|ret|b\.\w+|cbn?z|tbn?z)(?: |$)")
_STACK = re.compile(r"\[sp\b")


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other, and how often they did."""

    instructions: tuple[str, ...]
    count: int

    @property
    def executed(self) -> int:
        return len(self.instructions) * self.count

    @property
    def stack_accesses(self) -> int:
        """Loads and stores relative to the stack pointer."""
        return sum(bool(_STACK.search(instruction)) for instruction in self.instructions)


@dataclass(frozen=True)
class Listing:
    """A linked program: its instructions and the names in it, by address."""

    instructions: Mapping[int, str]
    labels: Mapping[int, str]

    def address(self, name: str) -> int:
        return next(address for address, label in self.labels.items() if label == name)


def disassemble(program: Path) -> Listing:
    """What llvm-objdump reads in a program."""
    command = [llvm_tool("llvm-objdump"), "-d", "--no-show-raw-insn", "--print-imm-hex=false", f"--mattr={FEATURES}"]
    text = subprocess.run([*command, str(program)], capture_output=True, text=True, check=True).stdout
    instructions, labels = {}, {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            instructions[int(match[1], 16)] = _plain(match[2])
        elif match := _LABEL.fullmatch(line):
            labels[int(match[1], 16)] = match[2]
    return Listing(instructions, labels)


def _plain(text: str) -> str:
    """One space between words, no comment, and "." for an address: what an assembler takes anywhere."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>|//.*", "", text)).strip()
    return re.sub(r"(?<!#)\b0x[0-9a-f]+$", ".", text)


def blocks(listing: Listing, counts: Mapping[int, int]) -> list[Block]:
    """Runs of neighbouring addresses that were executed equally often, cut after branches."""
    found: list[Block] = []
    run: list[str] = []
    last, count = -1, 0

    def end() -> None:
        if run:
            found.append(Block(tuple(run), count))
            run.clear()

    for address in sorted(counts):
        if address != last + 4 or counts[address] != count or (run and _BRANCH.match(run[-1])):
            end()
        run.append(listing.instructions[address])
        last, count = address, counts[address]
    end()
    return found
