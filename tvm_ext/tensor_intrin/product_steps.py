"""Sums of products of integer levels, and weights decoded from their codes, by an ISA (see `Product`)."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr
from tvm.script import tirx as T

from tvm_ext.tensor_intrin.shuffle import shuffle
from tvm_ext.tensor_intrin.spec import Product, llvm_intrinsic

_INT16_MAX = 32767


@dataclass(frozen=True)
class ProductSteps:
    """How one vector of outputs sums products, step by step.

    Sums are kept in `acc_dtype` x `acc_lanes`; after at most `chunk` steps they must be drained into int32 lanes, one
    an output (0: never, they are such lanes).

    Parameters
    ----------
    product : of the ISA.
    word : levels and weights are int16, two an output and step, instead of four bytes.
    chunk : steps between drains.
    """

    product: Product
    word: bool
    chunk: int

    @property
    def depth(self) -> int:
        """Products an output adds a step."""
        return 2 if self.word else 4

    @property
    def level_dtype(self) -> str:
        return "int16" if self.word else self.product.level_dtype

    @property
    def acc_dtype(self) -> str:
        return "int16" if self.chunk else "int32"

    @property
    def acc_lanes(self) -> int:
        if self._plain:
            return self.product.bytes // (2 if self.word else 1)
        return self.product.bytes // (2 if self.chunk else 4)

    @property
    def acc_bytes(self) -> int:
        """Of the sums of one vector of outputs."""
        return self.acc_lanes * (2 if self.chunk else 4)

    @property
    def tiles(self) -> int:
        """Rows x vectors of outputs whose sums stay in registers."""
        return self.product.tiles * self.product.bytes // self.acc_bytes

    @property
    def _plain(self) -> bool:
        p = self.product
        return not (p.pair or p.dot_pair) if self.word else not (p.dot or p.madd)

    def add(self, acc: Expr, levels: Expr, weights: Expr) -> Expr:
        """The sums after a step; levels and weights are int8 x bytes, or int16 x bytes / 2."""
        p, lanes = self.product, self.acc_lanes
        if self._plain:
            wide = f"{self.acc_dtype}x{lanes}"
            return acc + T.Cast(wide, weights) * T.Cast(wide, levels)
        if self.word and p.dot_pair:
            return T.call_llvm_pure_intrin(f"int32x{lanes}", llvm_intrinsic(p.dot_pair), acc, levels, weights)
        if self.word:
            return acc + T.call_llvm_pure_intrin(f"int32x{lanes}", llvm_intrinsic(p.pair), levels, weights)
        if p.dot:
            return T.call_llvm_pure_intrin(f"int32x{lanes}", llvm_intrinsic(p.dot), acc, levels, weights)
        half = p.bytes // 2
        pairs = T.call_llvm_pure_intrin(f"int16x{half}", llvm_intrinsic(p.madd), levels, weights)
        return acc + pairs if self.chunk else acc + self._pairs(pairs)

    def drain(self, acc: Expr) -> Expr:
        """The sums as int32 x lanes."""
        if self._plain:
            lanes, depth = self.acc_lanes, self.depth
            wide = T.Bind(acc if self.acc_dtype == "int32" else T.Cast(f"int32x{lanes}", acc))
            parts = [T.Shuffle([wide], list(range(i, lanes, depth))) for i in range(depth)]
            return parts[0] + parts[1] if depth == 2 else (parts[0] + parts[1]) + (parts[2] + parts[3])
        if not self.chunk:
            return acc
        return self._pairs(acc)

    def _pairs(self, words: Expr) -> Expr:
        p = self.product
        ones = T.broadcast(T.int16(1), p.bytes // 2)
        return T.call_llvm_pure_intrin(f"int32x{p.lanes}", llvm_intrinsic(p.pair), words, ones)


def product_steps(product: Product, largest_level: int, largest_weight: int) -> ProductSteps:
    """The cheapest steps that are exact for stored levels and weights of at most these absolute values."""
    if largest_weight > 127 or largest_level > 255:
        return ProductSteps(product, True, 0)
    if product.dot:
        return ProductSteps(product, False, 0)
    if product.madd:
        pair = 2 * largest_level * largest_weight
        if pair > _INT16_MAX:
            return ProductSteps(product, True, 0)  # the instruction would saturate
        chunk = _INT16_MAX // max(pair, 1)
        return ProductSteps(product, False, chunk if chunk > 2 else 0)
    return ProductSteps(product, False, _INT16_MAX // max(largest_level * largest_weight, 1))


def decode(product: Product, packed: Expr, palette: Expr, bits: int) -> list[Expr]:
    """Weights int8 x bytes of 8 / `bits` steps from codes uint8 x bytes, lowest bits first.

    palette: int8 x bytes, 16 entries in every 128-bit lane.
    """
    size = product.bytes
    vectors = []
    for part in range(8 // bits):
        shifted = packed
        if part:
            words = T.reinterpret(f"uint16x{size // 2}", packed)
            words = T.shift_right(words, T.broadcast(T.uint16(bits * part), size // 2))
            shifted = T.reinterpret(f"uint8x{size}", words)
        codes = T.reinterpret(f"int8x{size}", T.bitwise_and(shifted, T.broadcast(T.uint8((1 << bits) - 1), size)))
        vectors.append(T.Bind(shuffle(product.shuffle, palette, codes, size)))
    return vectors
