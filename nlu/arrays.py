"""Reading NumPy's archives without pickle and without leaving a file open when they are torn."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, load_npz


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file by name; raises OSError, ValueError or zipfile.BadZipFile."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def read_sparse(path: Path) -> csr_matrix:
    """The matrix that scipy.sparse.save_npz wrote; raises like `read_arrays`."""
    with path.open("rb") as file:
        return load_npz(file)
