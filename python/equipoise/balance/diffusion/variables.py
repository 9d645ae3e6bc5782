"""What a visit vector is made of: codes that are there or not, and labs that have one bin or none.

The bins of one lab exclude each other, for a stay has one value of it. Told so, a model need not
learn that, and cannot get it wrong.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from equipoise.vocabulary import LAB, Vocabulary

#: What a variable's value is called that has none of its columns.
ABSENT: Final = -1
_Places = npt.NDArray[np.int32]


class Variables(NamedTuple):
    """The D = C + L variables of V columns: first C codes, then L labs of at most M bins.

    codes: (C,) the column of each code. bins: (L, M) the columns of each lab's bins, V where it
    has fewer. variable: (V,) whose column it is. value: (V,) which of the variable's values it is,
    from 0; `ABSENT` is one more.
    """

    codes: _Places
    bins: _Places
    variable: _Places
    value: _Places

    @property
    def number(self) -> int:
        """D."""
        return len(self.codes) + len(self.bins)


def variables_of(vocabulary: Vocabulary, X: sparse.csr_array) -> Variables:
    """The variables of these columns, by rows X (n, V) that hold ones.

    A lab of which some row has two bins (every result of a stay may set its own) excludes nothing:
    each of its bins is a code here.
    """
    columns = len(vocabulary)
    kinds, names = (vocabulary.columns[name].to_list() for name in ("kind", "code"))
    labs: dict[str, list[int]] = {}
    for column in range(columns):
        if kinds[column] == LAB:
            labs.setdefault(names[column], []).append(column)
    exclusive = [own for own in labs.values() if len(own) > 1 and X[:, own].sum(axis=1).max() <= 1]
    bins = np.full((len(exclusive), max(map(len, exclusive), default=1)), columns, np.int32)
    for lab, own in enumerate(exclusive):
        bins[lab, : len(own)] = own
    codes = np.setdiff1d(np.arange(columns, dtype=np.int32), bins)
    variable, value = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
    variable[codes] = np.arange(len(codes), dtype=np.int32)
    of_lab, place = np.nonzero(bins < columns)
    variable[bins[of_lab, place]] = len(codes) + of_lab
    value[bins[of_lab, place]] = place
    return Variables(codes, bins, variable, value)
