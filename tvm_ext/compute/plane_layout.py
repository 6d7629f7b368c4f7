"""How a channel of a conv's input lies in its plane: what neighbouring output positions read is close by."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_ext.compute.patches import Patches

MARGIN = 16
"""Elements behind the last row that a kernel which writes whole vectors may spoil."""


@dataclass(frozen=True)
class PlaneLayout:
    """Bordered rows of an image, each `pitch` elements long, in the order of a vertical stride.

    Rows ``p, p + row_step, p + 2 * row_step, ...`` follow each other, for each phase p below `phases` in turn: the next
    row of output positions is the next row of the plane whatever the stride is. Phases that no window reads are left
    out, and so are columns between every `column_step`-th.

    Parameters
    ----------
    height, width : of the image.
    pads : top, left, bottom, right.
    row_step, phases, column_step : see above. Without all phases or columns there is no border in that direction.
    """

    height: int
    width: int
    pads: tuple[int, int, int, int]
    row_step: int = 1
    phases: int = 1
    column_step: int = 1

    @classmethod
    def of(cls, patches: Patches) -> PlaneLayout:
        """The layout that the windows of a conv read: nothing is left out that one of them needs."""
        (_, _, height, width), (top, left, bottom, right) = patches.shape, patches.pads
        (kernel_h, kernel_w), (stride_h, stride_w) = patches.kernel, patches.strides
        return cls(
            height, width, patches.pads, stride_h,
            1 if kernel_h == 1 and top == bottom == 0 else stride_h,
            stride_w if kernel_w == 1 and left == right == 0 else 1,
        )  # fmt: skip

    @property
    def pitch(self) -> int:
        """Elements between rows of the plane."""
        _, left, _, right = self.pads
        return -(-(self.width + left + right) // self.column_step)

    @property
    def columns(self) -> int:
        """Pixels of an image's row that the plane holds."""
        return -(-self.width // self.column_step)

    @property
    def phase_rows(self) -> int:
        """Rows of a phase."""
        top, _, bottom, _ = self.pads
        return -(-(self.height + top + bottom) // self.row_step)

    @property
    def elements(self) -> int:
        """Elements of all rows."""
        return self.phases * self.phase_rows * self.pitch

    def row(self, r):
        """Where bordered row r starts; works on ints and expressions."""
        return (r % self.row_step * self.phase_rows + r // self.row_step) * self.pitch
