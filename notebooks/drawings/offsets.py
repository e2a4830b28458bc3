"""Figures of the weight offsets (notebook 05): how Delta is made, and the same Delta folded."""

from dataclasses import dataclass

import numpy as np

from .catalogue import figure
from .sheet import Sheet


@dataclass(frozen=True)
class Offset:
    """A weight offset, computed, for a weight of 6 x 9 numbers."""

    constant: np.ndarray  # (4, 1)
    x: np.ndarray  # (6,)
    y: np.ndarray  # (9,)
    delta: np.ndarray  # (6, 9)
    left: np.ndarray  # (6, 3)
    right: np.ndarray  # (9, 3)


def random_offset() -> Offset:
    random = np.random.RandomState(4)
    constant, x, y = random.randn(4, 1), random.randn(6), random.randn(9)
    A, a = random.randn(6, 6) / 6**0.5, random.randn(6)
    B, b = random.randn(9, 9) / 9**0.5, random.randn(9)
    over_columns = A @ np.outer(x, y) + a[:, None]
    return Offset(
        constant,
        x,
        y,
        delta=over_columns @ B.T + b,
        left=np.stack([A @ x, a, np.ones(6)], axis=1),
        right=np.stack([B @ y, B.sum(1), b], axis=1),
    )


SIZE = 11  # of a square


@figure("offsets-05", 246, colors=64)
def offsets(sheet: Sheet):
    """How a weight offset is made. Two linear layers turn a learned constant into a column x of n
    numbers and a row y of m numbers. Their outer product is an n by m matrix. One linear layer over
    its columns, then one over its rows, make Delta. The frozen weight W is multiplied, element by
    element, by 1 + Delta; that product is what the layer uses. Thick frames: what learns."""
    offset = random_offset()
    _constant_to_column_and_row(sheet, offset)
    _outer_product_to_delta(sheet, offset)
    _weight_times_one_plus_delta(sheet, offset)


def _constant_to_column_and_row(sheet: Sheet, offset: Offset):
    sheet.write(50, 24, "learned\nconstant", weight="bold")
    sheet.box((49.5, 98, 23, 56), thick=True)
    sheet.cells(44, 76, offset.constant, SIZE)
    for y in (56, 154):
        sheet.arrow((64, 98), (78, 98), (78, y), (94, y))
        sheet.box((126, y, 62, 34), "linear", thick=True)
        sheet.arrow((157, y), (190, y))
    sheet.cells(196, 26, offset.x[:, None], SIZE)
    sheet.write(202, 106, "column x (n)", 11)
    sheet.cells(196, 148, offset.y, SIZE)
    sheet.write(245, 174, "row y (m)", 11)


def _outer_product_to_delta(sheet: Sheet, offset: Offset):
    sheet.arrow((212, 56), (300, 56), (300, 74), (328, 74))
    sheet.arrow((300, 154), (314, 154), (314, 98), (328, 98))
    sheet.cells(334, 53, np.outer(offset.x, offset.y), SIZE)
    sheet.write(384, 36, "outer product (n, m)", 11)
    sheet.arrow((436, 86), (456, 86))
    sheet.box((498, 86, 82, 50), "linear over\ncolumns", thick=True)
    sheet.arrow((539, 86), (556, 86))
    sheet.box((593, 86, 72, 50), "linear\nover rows", thick=True)
    sheet.arrow((629, 86), (647, 86))
    sheet.cells(653, 53, offset.delta, SIZE, limit=3)
    sheet.write(703, 36, "$\\Delta$ (n, m)", 12)


def _weight_times_one_plus_delta(sheet: Sheet, offset: Offset):
    weight = 1.2 * np.random.RandomState(5).randn(*offset.delta.shape)
    product = "$W \\cdot (1 + \\Delta)$,\nelement by element"
    sheet.arrow((721, 123), (721, 187))
    sheet.write(575, 191, product, 12, ha="right", weight="bold")
    sheet.cells(597, 158, weight, SIZE, limit=3)
    sheet.write(646, 234, "W, frozen", 11)
    sheet.arrow((702, 191), (740, 191))
    sheet.cells(746, 158, weight * (1 + offset.delta), SIZE, limit=6)
    sheet.write(796, 234, "what the layer uses", 11)


@figure("folded-05", 148, colors=64)
def folded(sheet: Sheet):
    """The same Delta, folded: left, a matrix of n rows and 3 columns, A x, a and ones, times the
    transpose of right, 3 rows and m columns, B y, B 1 and b. That takes 3 (n + m) numbers. A and a
    are weight and bias of the linear layer over columns, B and b of the one over rows."""
    offset = random_offset()
    sheet.write(16, 66, "folded:\n3 (n + m) numbers", ha="left", weight="bold")
    for i, name in enumerate(("A x", "a", "1")):
        sheet.cells(196 + 32 * i, 20, offset.left[:, i : i + 1], 16, limit=3)
        sheet.write(204 + 32 * i, 130, name)
    sheet.write(236, 9, "left (n, 3)", 11)
    sheet.write(306, 68, "×", 18)
    sheet.write(406, 9, "right, transposed (3, m)", 11)
    for i, name in enumerate(("B y", "B 1", "b")):
        sheet.cells(334, 24 + 32 * i, offset.right[:, i], 16, limit=3)
        sheet.write(486, 33 + 32 * i, name, ha="left")
    sheet.write(544, 68, "=", 18)
    sheet.cells(576, 20, offset.delta, 16, limit=3)
    sheet.write(648, 130, "$\\Delta$ (n, m), as before")
    sheet.write(736, 66, "A, a: layer over columns\nB, b: layer over rows", 11, ha="left")
