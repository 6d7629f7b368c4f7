"""What a table-read or dot-product instruction sequence looks like from outside: one frozen row an ISA."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm.target.codegen import llvm_lookup_intrinsic_id

TABLE_ENTRIES = 16
"""Centroids a register table holds (K). Smaller K is padded to it; larger K takes the row-gather kernels."""
ROWS = "rows"
"""Behind an ISA's name and a slash: its table read that loads rows."""


@dataclass(frozen=True)
class TableRead:
    """How an ISA reads int8 tables of 16 entries at uint8 codes and sums over codebooks.

    Parameters
    ----------
    intrin : name of the tensor intrinsic.
    rows : rows (positions) a tile covers.
    group : codebooks one instruction sequence combines (G).
    acc_dtype : "int32", or "int16" (then the sum is drained to int32 where the table bound requires).
    order : layout of a tile of codes.
        "row_codebook": ``code[rows, G]``; "row": ``code[rows]`` (G = 1); "codebook_row": ``code[G, rows]``;
        "pairs": ``code[2, rows, 2]`` (G = 4), codebooks 0 and 2, then 1 and 3;
        "unpack": ``code[G, lanes, 2, 8]``, the row order that byte unpacking of `lanes` 128-bit lanes restores.
    tiles : accumulator tiles (row tiles x outputs) that stay in registers.
    intrin_mult : name of the variant that multiplies by a u7 factor per codebook, or "".
    code_offset : added to a code for each codebook before its own in one table operand: where its table starts.
    load_cost : of a load beside a table read's instructions, for the choice of a register tile.
    preadd : neighbouring codebooks whose entries are added in int8, so that a table must not overflow there.
    step : rows that one instruction sequence covers where `lookup_tiles` is the kernel of images; 0 where it is not.
    """

    intrin: str
    rows: int
    group: int
    acc_dtype: str
    order: str
    tiles: int
    intrin_mult: str = ""
    code_offset: int = 0
    load_cost: float = 0.3
    preadd: int = 1
    step: int = 0

    @property
    def step_vectors(self) -> int:
        """Vectors of 16 codes of a step."""
        return self.step * self.group // 16

    @property
    def table_bits(self) -> int:
        """See `table_bits`."""
        return table_bits(self.preadd)

    @property
    def lanes(self) -> int:
        """128-bit lanes of a register in the "unpack" order."""
        return self.rows // 16

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one tile of codes."""
        if self.order == "row_codebook":
            return (self.rows, self.group)
        if self.order == "row":
            return (self.rows,)
        if self.order == "codebook_row":
            return (self.group, self.rows)
        if self.order == "pairs":
            return (2, self.rows, 2)
        return (self.group, self.lanes, 2, 8)

    def code_start(self, codebook):
        """What is added to the codes of a codebook of the group; works on ints and on expressions."""
        return (codebook // 2 if self.order == "pairs" else codebook) * self.code_offset

    @property
    def unit(self) -> int:
        """Codebooks whose codes of a row lie side by side."""
        return {"row_codebook": self.group, "pairs": 2}.get(self.order, 1)

    def code_index(self, row, codebook) -> tuple:
        """Where the code of (row in tile, codebook in group) lies in the tile; works on ints and on expressions."""
        if self.order == "row_codebook":
            return (row, codebook)
        if self.order == "row":
            return (row,)
        if self.order == "codebook_row":
            return (codebook, row)
        if self.order == "pairs":
            return (codebook % 2, row, codebook // 2)
        return (codebook, row // 8 % self.lanes, row // (8 * self.lanes), row % 8)

    def code_position(self, *index) -> tuple:
        """The inverse of `code_index`: (row in tile, codebook in group)."""
        if self.order == "row_codebook":
            return index
        if self.order == "row":
            return (index[0], 0)
        if self.order == "codebook_row":
            return (index[1], index[0])
        if self.order == "pairs":
            return (index[1], index[0] + 2 * index[2])
        codebook, lane, half, byte = index
        return (half * (8 * self.lanes) + lane * 8 + byte, codebook)


@dataclass(frozen=True)
class Dot:
    """How an ISA multiplies quantized inputs with int8 centroids for closest-centroid search.

    Parameters
    ----------
    intrin : name of the tensor intrinsic, or "" for plain vector code (then `depth` is 1).
    rows : rows a vector of accumulators covers.
    depth : products one instruction adds into a 32-bit lane.
    x_dtype : how the inputs must be stored: "uint8", "int8" or "int16".
    c_dtype : how the centroids must be stored: "int8" or "int16".
    block : rows that are searched together.
    mixed_lanes : where the two differ, the intrinsic with centroids in the lanes and a row's elements broadcast.
    """

    intrin: str
    rows: int
    depth: int
    x_dtype: str
    c_dtype: str
    block: int = 16
    mixed_lanes: str = ""

    @property
    def lanes_intrin(self) -> str:
        """The tensor intrinsic with centroids in the lanes and a row's elements broadcast, or ""."""
        return self.intrin if self.x_dtype == self.c_dtype else self.mixed_lanes


@dataclass(frozen=True)
class Window:
    """How an ISA collects the inputs of neighbouring positions of a conv: one permutation of one or two registers.

    Parameters
    ----------
    intrin : name of the tensor intrinsic.
    span : elements that are loaded; a window must fit in them.
    depth : elements each of the positions takes, as the ISA's Dot has it.
    dtype : of the elements.
    index_dtype : of the permutation.
    rows : positions; they divide 16.
    out_dtype : of what is collected; "" is `dtype`.
    index_offset : added to every index of the permutation.
    """

    intrin: str
    span: int
    depth: int
    dtype: str
    index_dtype: str
    rows: int = 16
    out_dtype: str = ""
    index_offset: int = 0

    @property
    def collected(self) -> str:
        """The dtype of what is collected."""
        return self.out_dtype or self.dtype


@dataclass(frozen=True)
class Product:
    """How an ISA sums products of integer levels: every int32 lane is an output, and adds 4 (or 2) products a step.

    A step multiplies one dword of a row's levels, broadcast, with a vector of weights: 4 int8 (or 2 int16) an output.

    Parameters
    ----------
    bytes : of a vector register.
    tiles : accumulators that stay in registers, of the int8 steps.
    dot : LLVM name of the instruction that adds 4 products of bytes into int32 lanes, or "".
    madd : LLVM name of u8 x s8 products added in pairs to saturating int16, or "".
    pair : LLVM name of int16 products added in pairs to int32, or "".
    dot_pair : LLVM name of the instruction that also adds them to the accumulator, or "".
    shuffle : LLVM name of the byte shuffle that reads a table of 16 entries (in every 128-bit lane), or "".
    permute : LLVM names of the byte permutations of a table of 64 and of 128 entries, or ().
    permute_words : LLVM name of the permutation of two registers of dwords, or "".
    pack : LLVM names that narrow dwords to words and words to bytes with unsigned saturation, or ().
    pack_signed : LLVM name that narrows words to bytes with signed saturation, or "".
    fma_towards_zero : LLVM name of a float32 multiply-add that takes its rounding as an operand, or "".
    fused : it multiplies and adds float32 with one rounding.
    level_dtype : how 8-bit levels of activations are stored: what `dot` and `madd` multiply with int8 weights.
    """

    bytes: int
    tiles: int
    dot: str = ""
    madd: str = ""
    pair: str = ""
    dot_pair: str = ""
    shuffle: str = ""
    permute: tuple[str, ...] = ()
    permute_words: str = ""
    pack: tuple[str, ...] = ()
    pack_signed: str = ""
    fma_towards_zero: str = ""
    fused: bool = True
    level_dtype: str = "uint8"

    @property
    def lanes(self) -> int:
        """Outputs of a vector."""
        return self.bytes // 4

    @property
    def table_entries(self) -> int:
        """Entries of the largest byte table that is read quickly."""
        return 256 if self.permute else 16 if self.shuffle else 0

    @property
    def truncates(self) -> bool:
        """Whether upper halves of sums make quick indices (see `upper_halves`)."""
        return bool(self.permute and self.pack_signed and self.fma_towards_zero)


PLAIN_PRODUCT = Product(bytes=16, tiles=2, fused=False, level_dtype="int8")
"""Vector code of LLVM's own choice."""


@dataclass(frozen=True)
class Tree:
    """How an ISA walks down hash trees: the thresholds of the rows' nodes are looked up in a register.

    Parameters
    ----------
    shuffle : LLVM name of the byte shuffle (table, index) within 128-bit lanes, or "" to walk one row at a time.
    rows : bytes of a vector.
    wraps : whether the shuffle takes an index modulo 16.
    permute : LLVM name of the permutation (table, index) of float32 registers, or "" for selects.
    float_rows : float32 elements of a vector.
    """

    shuffle: str = ""
    rows: int = 16
    wraps: bool = True
    permute: str = ""
    float_rows: int = 4


PLAIN_TREE = Tree()
"""One row at a time."""
ROW_READ = TableRead(intrin="", rows=16, group=4, acc_dtype="int16", order="row_codebook", tiles=8)
"""The codes of a row of four codebooks are one word; 8 x 16 outputs are summed in registers."""
PLAIN_DOT = Dot(intrin="", rows=16, depth=1, x_dtype="int16", c_dtype="int16")
FLOAT_DOT = Dot(intrin="", rows=16, depth=1, x_dtype="float32", c_dtype="float32")
"""Vector code of LLVM's own choice: widening multiply-adds, and fused multiply-adds for the float32 search."""


@dataclass(frozen=True)
class Isa:
    """One instruction set: what it needs, how good it is, and its instruction sequences.

    Parameters
    ----------
    name : name of the ISA; also the `layout` attribute of packed lut ops.
    float_lanes : float32 elements of a vector register.
    product : how products of integer levels are summed.
    window, float_window : how conv inputs are collected for the int8 and the float32 search, or None for one element
        at a time.
    narrow_window : for convs whose windows do not fit in `window`, fewer positions of them.
    tree : how hash trees are walked.
    arch : "x86", "aarch64" or "" for any.
    requires : LLVM feature names, all needed.
    rank : the usable ISA with the highest rank is chosen.
    core : kind of core that it is for (`tvm_ext.target.CORES`), or "" for any.
    by_element : whether an int8 search has centroids in lanes and multiplies by elements of the inputs.
    row_read : how codes lie for a table read that loads rows (dense layers), or None if there is none.
    manual : where the instructions are specified.
    """

    name: str
    arch: str
    requires: tuple[str, ...]
    rank: int
    table_read: TableRead
    dot: Dot
    manual: str
    tree: Tree = PLAIN_TREE
    window: Window | None = None
    narrow_window: Window | None = None
    float_window: Window | None = None
    float_lanes: int = 4
    product: Product = PLAIN_PRODUCT
    core: str = ""
    by_element: bool = False
    row_read: TableRead | None = None

    @property
    def of_rows(self) -> Isa:
        """This ISA with the table read that loads rows."""
        if self.row_read is None:
            raise ValueError(f"{self.name} has no table read that loads rows")
        return replace(self, name=f"{self.name}/{ROWS}", table_read=self.row_read)

    def dot_for(self, encode_dtype: str) -> Dot:
        """The dot product of the search in `encode_dtype`."""
        return FLOAT_DOT if encode_dtype == "float32" else self.dot

    @property
    def plane_dtype(self) -> str:
        """How the planes of convs are stored for the integer search."""
        return self.dot.x_dtype if self.window is None else self.window.dtype

    def windows_for(self, encode_dtype: str) -> tuple[Window, ...]:
        """How conv inputs can be collected for the search in `encode_dtype`, best first."""
        windows = (self.float_window,) if encode_dtype == "float32" else (self.window, self.narrow_window)
        return tuple(window for window in windows if window is not None)

    def window_of(self, encode_dtype: str, rows: int) -> Window:
        """The one of `windows_for` that takes so many rows."""
        return next(window for window in self.windows_for(encode_dtype) if window.rows == rows)


def table_bits(preadd: int) -> int:
    """Bits that an entry may use where `preadd` codebooks of the same range are added in int8."""
    return 9 - preadd.bit_length()


def llvm_intrinsic(name: str) -> str:
    """`name`, after a check that this LLVM has it (an unknown name would silently become intrinsic 0)."""
    if llvm_lookup_intrinsic_id(name) == 0:
        raise ValueError(f"this LLVM has no intrinsic {name!r}")
    return name
