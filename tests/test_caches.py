"""What trainings keep: photos are told apart by where they lie, not by how a manifest names them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from pixvoice.training.caches import photo_numbers, photos_of


def test_one_photo_by_two_paths_is_one_photo(tmp_path: Path) -> None:
    """As in manifests of two folders, each of which names the photos from where it lies itself."""
    (tmp_path / "speech").mkdir()
    (tmp_path / "photos").mkdir()
    plain = [tmp_path / "photos" / name for name in ("b.jpg", "a.jpg")]
    again = [tmp_path / "speech" / ".." / "photos" / name for name in ("a.jpg", "b.jpg")]
    photos = photos_of([*plain, *again])
    assert [photo.name for photo in photos] == ["a.jpg", "b.jpg"]
    assert photo_numbers([*plain, *again], photos) == [1, 0, 0, 1]
