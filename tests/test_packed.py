"""Units in few bits: what goes in comes out, from as many bytes as the bits need, and what isn't units is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixvoice.errors import InputError
from pixvoice.packed import PackedUnits, UnitsOf, bits_of, pack, unpack

OF = UnitsOf("image", "abc", num_codebooks=3, codebook_size=391)


def some(of: UnitsOf = OF, *lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(of.codebook_size, size=(of.num_codebooks, t)) for t in lengths]


@pytest.mark.parametrize(("size", "bits"), [(2, 1), (200, 8), (256, 8), (257, 9), (391, 9), (1024, 10), (8192, 13)])
def test_an_id_takes_as_many_bits_as_its_codebook_needs(size: int, bits: int) -> None:
    assert bits_of(size) == bits
    assert len(pack(np.full(1000, size - 1), bits)) == 125 * bits


@given(st.integers(1, 20).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1)))))
def test_what_is_packed_comes_out(given_: tuple[int, list[int]]) -> None:
    bits, ids = given_
    packed = pack(np.array(ids, np.int64), bits)
    assert len(packed) == -(-len(ids) * bits // 8)
    assert unpack(packed, len(ids), bits).tolist() == ids


def test_a_file_keeps_rows_of_any_length(tmp_path: Path) -> None:
    codes = some(OF, 5, 0, 1, 49)
    units = PackedUnits.pack(OF, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], codes)
    units.save(tmp_path / "units.npz")
    again = PackedUnits.load(tmp_path / "units.npz")
    assert again.of == OF and again.names == units.names and len(again) == 4
    for row, one in enumerate(codes):
        np.testing.assert_array_equal(again.codes(row), one)
    assert again.bits().tolist() == [5 * 27, 0, 27, 49 * 27]
    assert len(again.packed) == 17 + 0 + 4 + 166  # whole bytes a row


def test_parts_join_in_their_order() -> None:
    codes = some(OF, 3, 4, 5)
    parts = [PackedUnits.pack(OF, [str(n)], [one]) for n, one in enumerate(codes)]
    whole = PackedUnits.join(OF, parts)
    assert whole.names == ("0", "1", "2")
    np.testing.assert_array_equal(whole.codes(2), codes[2])
    assert len(PackedUnits.join(OF, [])) == 0


def test_a_photo_is_found_by_the_end_of_its_path() -> None:
    names = ["train/1.jpg", "dev/1.jpg", "dev/2.jpg"]
    units = PackedUnits.pack(OF, names, some(OF, 1, 1, 1))
    assert units.row(Path("/elsewhere/2.jpg")) == 2
    assert [units.row(Path("/data") / name) for name in names] == [0, 1, 2]
    with pytest.raises(InputError, match=r"3\.jpg: the units hold none; encode its data set again"):
        units.row(Path("3.jpg"))
    with pytest.raises(InputError, match=r"1\.jpg: the units hold 2 of that name"):
        units.row(Path("test/1.jpg"))


@pytest.mark.parametrize("data", [b"", b"no units", b"PK\x03\x04"])
def test_what_is_no_units_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "units.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"no units that can be read|can't be read"):
        PackedUnits.load(tmp_path / "units.npz")
    with pytest.raises(InputError, match=r"none\.npz: can't be read \(No such file"):
        PackedUnits.load(tmp_path / "none.npz")


def test_other_arrays_and_cut_bytes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", codes=np.zeros(3))
    with pytest.raises(InputError, match="no units"):
        PackedUnits.load(tmp_path / "other.npz")
    units = PackedUnits.pack(OF, ["a"], some(OF, 9))
    PackedUnits(units.of, units.names, units.frames, units.packed[:-1]).save(tmp_path / "cut.npz")
    with pytest.raises(InputError, match="damaged"):
        PackedUnits.load(tmp_path / "cut.npz")
