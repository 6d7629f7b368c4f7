"""Reading assembly text: the body of a kernel and its innermost loops."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_LABEL = re.compile(r"^([.\w]+):")
_BRANCH = re.compile(r"^\s+(j\w+|b\.?\w*|cbn?z|tbn?z)\s+(?:.*,\s*)?([.\w]+)\s*$")
_LAMBDA = re.compile(r"\.L__tvm_parallel_lambda[.\d]*")


@dataclass(frozen=True)
class Loop:
    """Instructions from a label to the branch back to it."""

    lines: list[str]

    @property
    def mnemonics(self) -> Counter[str]:
        return Counter(line.split()[0] for line in self.lines)

    def on_stack(self, registers: str) -> list[str]:
        """Instructions that move a register matching `registers` to or from the stack."""
        return [line for line in self.lines if stack_access(line) and re.search(registers, line)]


def stack_access(line: str) -> bool:
    """Through the stack pointer, or %rbp where it is no ordinary pointer; without a frame x29 is one too."""
    return bool(re.search(r"\(%rsp[),]|-\d+\(%rbp\)|\[sp[],]", line))


def kernel_lines(asm: str, symbol: str) -> list[str]:
    """The lines of the parallel bodies of the PrimFunc `symbol`, or all, without directives and comments."""
    launcher = _body(asm, f"{symbol}_compute_")
    names = dict.fromkeys(_LAMBDA.findall(launcher))  # 32-bit Arm names them in constants behind the code
    return [line for text in [_body(asm, name) for name in names] or [launcher] for line in _lines(text)]


def _body(asm: str, name: str) -> str:
    start = asm.index(f"\n{name}:")
    return asm[start + 1 : asm.index("\n.Lfunc_end", start)]


def _lines(body: str) -> list[str]:
    lines = [re.split(r"\s+(?:# |//|@ )", line)[0].rstrip() for line in body.splitlines()]
    return [line for line in lines if line and (_LABEL.match(line) or not line.lstrip().startswith("."))]


def innermost_loops(lines: list[str]) -> list[Loop]:
    """Loops that hold no other loop, in order."""
    if any(line.strip() == "loop" for line in lines):
        return _structured_loops(lines)
    places = {match.group(1): i for i, line in enumerate(lines) if (match := _LABEL.match(line))}
    spans = []
    for end, line in enumerate(lines):
        branch = _BRANCH.match(line)
        start = places.get(branch.group(2)) if branch else None
        if start is not None and start <= end:
            spans.append((start, end))
    inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [Loop([line for line in lines[a : b + 1] if not _LABEL.match(line)]) for a, b in inner]


def _structured_loops(lines: list[str]) -> list[Loop]:
    """Of WebAssembly: from a "loop" to the next "end_loop"."""
    found, start = [], None
    for place, line in enumerate(lines):
        if line.strip() == "loop":
            start = place
        elif line.strip() == "end_loop" and start is not None:
            found.append(Loop([line for line in lines[start:place] if not _LABEL.match(line)]))
            start = None
    return found


def busiest(loops: list[Loop], mnemonic: str) -> Loop:
    """The loop with most of an instruction."""
    return max(loops, key=lambda loop: loop.mnemonics[mnemonic])
