"""The centroids of a k-means that scikit-learn and joblib saved, read without running anything of the file.

The published k-means (``km.bin``) is a pickle, and a pickle names functions that reading it calls.  Here no name of
the file is imported: each of a short list stands for a class below that only keeps what it is given, and any other name
ends the reading.  Arrays are made of the file's bytes, and only of plain numbers.  scikit-learn isn't needed.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from pixvoice.contracts import Floats
from pixvoice.errors import InputError, PixVoiceError

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


class _Kept:
    """Stands for any object of the file: keeps its state, does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __new__(cls, *args: Any) -> _Kept:
        return object.__new__(cls)


class _KMeans(_Kept):
    """Stands for the estimator."""


class _Wrapped(_Kept):
    """Stands for joblib's wrapper, behind which an array's bytes lie in the file."""


class _Array(_Kept):
    """Stands for an array that the pickle itself holds: state (version, shape, type, by columns, bytes)."""


class _Type(_Kept):
    """Stands for a numpy type: its name, and a state with the byte order at 1."""

    def numpy(self) -> np.dtype[Any]:
        """The type.  Raises InputError for anything but numbers."""
        name = self.args[0] if self.args else None
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "<"
        if not isinstance(name, str) or name not in NUMBERS or order not in ("<", ">", "|", "="):
            raise InputError(f"an array of {name!r} in it: it isn't a k-means of numbers")
        return np.dtype(order + name)


def _latin(text: Any, _encoding: Any = None) -> bytes:
    """Bytes as protocol 2 writes them."""
    return str(text).encode("latin1")


def _rebuilt(kind: Callable[..., Any], *_: Any) -> Any:
    """An object as protocols 0 and 1 write it."""
    return kind()


_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    **{
        (module, name): _KMeans
        for module in ("sklearn.cluster._kmeans", "sklearn.cluster.k_means_")
        for name in ("MiniBatchKMeans", "KMeans")
    },
    **{
        (module, "NumpyArrayWrapper"): _Wrapped
        for module in ("joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle")
    },
    **{(module, "_reconstruct"): _Array for module in _NUMPY_CORES},
    **{(module, "scalar"): _Kept for module in _NUMPY_CORES},
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Kept,
    ("numpy.random._pickle", "__randomstate_ctor"): _Kept,
    ("numpy.random._pickle", "__bit_generator_ctor"): _Kept,
    ("numpy.random", "__RandomState_ctor"): _Kept,
    ("numpy.random._mt19937", "MT19937"): _Kept,
    ("_codecs", "encode"): _latin,
    ("copyreg", "_reconstructor"): _rebuilt,
    ("copy_reg", "_reconstructor"): _rebuilt,
    ("builtins", "object"): _Kept,
}


_InPython: Any = pickle._Unpickler  # the one whose steps can be changed, as joblib does


class _Reader(_InPython):  # type: ignore[misc]
    """Python's own reader of pickles, with every name looked up in the list above."""

    dispatch: ClassVar[dict[int, Any]] = dict(_InPython.dispatch)

    def __init__(self, data: bytes) -> None:
        self.file, self.size = io.BytesIO(data), len(data)
        super().__init__(self.file)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name."""
        if (module, name) not in _KNOWN:
            raise InputError(f"it names {module}.{name}, which no k-means of scikit-learn needs: nothing of it was run")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        """An object gets its state; behind a wrapper's, the bytes of its array follow in the file."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Kept):
            raise InputError("it gives a state to what has none: the file is damaged")
        self.stack[-1].state = state
        if isinstance(self.stack[-1], _Wrapped):
            self.stack[-1] = self._array_behind(state)

    dispatch[pickle.BUILD[0]] = load_build

    def _array_behind(self, state: Any) -> Any:
        kind, shape = state["dtype"].numpy(), state["shape"]
        if state.get("numpy_array_alignment_bytes") is not None:
            self.file.seek(self.file.read(1)[0], io.SEEK_CUR)
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise InputError("an array without a shape in it: the file is damaged")
        count = 1
        for size in shape:
            count *= size
        if count * kind.itemsize > self.size - self.file.tell():
            raise InputError("it ends in the middle of an array: fetch it again")
        flat = np.frombuffer(self.file.read(count * kind.itemsize), kind)
        return flat.reshape(shape, order="F" if state.get("order") == "F" else "C")


def read_kmeans_pickle(data: bytes, name: str) -> Floats:
    """Bytes of a pickled or joblib-dumped k-means (uncompressed) -> its centroids (K, D), float32.

    Raises InputError, which begins with ``name``, for anything else.
    """
    try:
        root = _Reader(data).load()
        centroids = _plain(root.state["cluster_centers_"]) if isinstance(root, _KMeans) else None
    except PixVoiceError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # a file made to harm, or no pickle at all, fails in ways of all kinds
        raise InputError(
            f"{name}: no torch file, and no k-means of scikit-learn ({type(error).__name__} while reading it)"
        ) from None
    if not isinstance(centroids, np.ndarray) or centroids.ndim != 2 or not np.isfinite(centroids).all():
        raise InputError(f"{name}: holds no fitted k-means with centroids (K, D)")
    return np.array(centroids, dtype=np.float32, order="C")


def _plain(value: Any) -> Any:
    """An array that the pickle itself held, as numpy's."""
    if not isinstance(value, _Array) or not isinstance(value.state, tuple):
        return value
    _, shape, kind, by_columns, data = value.state
    flat = np.frombuffer(data, kind.numpy())
    return flat.reshape(shape, order="F" if by_columns else "C")
