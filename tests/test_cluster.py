"""Bulk embedding and encoding on a local Ray of two workers: the same results, and what was done stays done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import seeing
import test_encode
from pixvoice import encoding
from pixvoice.contracts import SearchModel
from pixvoice.encoding import encode_files, files_in
from pixvoice.errors import MissingToolError, OutputError
from pixvoice.runtime.searcher import Searcher

PHOTOS = 40


def load(poison: str = "") -> SearchModel:
    """A model that fails on its fifth batch of photos where there is a file called ``poison``."""

    def before(seen: int) -> None:
        if poison and Path(poison).exists() and seen >= 8:
            raise RuntimeError("the worker's disk is on fire")

    return seeing.ColourModel(before=before)


class Poisoned(test_encode.Corner):
    """Fails at a photo of the second half where there is a file called ``poison``."""

    def __init__(self, poison: str) -> None:
        super().__init__()
        self.poison = poison

    def read(self, name: str, path: Path) -> Any:
        if name >= f"{PHOTOS // 2}" and Path(self.poison).exists():
            raise RuntimeError("the worker's disk is on fire")
        return super().read(name, path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(PHOTOS):
        seeing.photo(tmp_path / "photos" / f"{number:02}.png", list(seeing.TONES)[number % 3], shade=number)
    (tmp_path / "photos" / "bad.jpg").write_text("no photo")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster of this machine alone, which both tests share: it takes seconds to start."""
    pytest.importorskip("ray.data", reason="needs the cluster extra")
    from ray import cloudpickle

    from pixvoice.cluster import embed_on_ray

    for module in (seeing, test_encode, sys.modules[__name__]):
        cloudpickle.register_pickle_by_value(module)  # workers don't have the tests
    with embed_on_ray(load, workers=2):
        yield


@pytest.mark.slow
def test_two_workers_embed_what_one_process_does_and_go_on_after_a_failure(
    two_workers: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb", reason="needs the search extra")
    from pixvoice import cluster

    monkeypatch.setattr(cluster, "FILES_AT_ONCE", 4)
    poison = tmp_path / "poison"
    poison.touch()
    there = Searcher(seeing.ColourModel(), photos, tmp_path / "ray.index")
    with cluster.embed_on_ray(partial(load, str(poison)), workers=2) as embed:
        with pytest.raises(OutputError, match=r"a worker failed .*on fire.*go on"):
            there.index(embed=embed)
        poison.unlink()
        kept = there.store.count("photos")
        report = there.index(embed=embed)
    assert (report.photos, report.new, len(report.failures)) == (PHOTOS, PHOTOS - kept, 1)
    assert "bad.jpg" in report.failures[0]
    here = Searcher(seeing.ColourModel(), photos, tmp_path / "here.index")
    here.index()
    query = here.hear(seeing.speech(tmp_path / "query.wav", "green"))
    assert ranked(there, query) == ranked(here, query)
    assert there.index().new == 0


@pytest.mark.slow
def test_two_workers_encode_what_one_process_does_and_go_on_after_a_failure(
    two_workers: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixvoice.cluster import encode_on_ray

    monkeypatch.setattr(encoding, "PART", 4)
    poison = tmp_path / "poison"
    poison.touch()
    files, there, here = files_in(photos, "image"), tmp_path / "there.npz", tmp_path / "here.npz"
    told: list[str] = []
    progress: list[tuple[int, int]] = []
    with encode_on_ray(partial(Poisoned, str(poison)), workers=2) as spread:
        with pytest.raises(OutputError, match=r"a worker failed .*on fire.*go on"):
            encode_files(files, test_encode.Corner(), there, spread=spread)
        poison.unlink()
        kept = len(list(tmp_path.glob("there.npz.parts/*.npz")))
        encoder = test_encode.Corner()
        report = encode_files(files, encoder, there, told.append, lambda *done: progress.append(done), spread)
    assert kept <= 5 and encoder.encoded == 0, "all parts were made by workers"
    assert len(progress) == 11 - kept and progress[-1] == (PHOTOS + 1, PHOTOS + 1)
    assert report.files == PHOTOS and report.failures == told and "bad.jpg" in told[0]
    encode_files(files, test_encode.Corner(), here)
    assert there.read_bytes() == here.read_bytes() and not there.with_name("there.npz.parts").exists()


def ranked(searcher: Searcher, query: Any) -> list[tuple[str, float]]:
    return [(match.path.name, round(match.score, 5)) for match in searcher.search(query, top=PHOTOS)]


def test_without_ray_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixvoice.cluster import embed_on_ray, encode_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    for on_ray in (embed_on_ray(load), encode_on_ray(test_encode.Corner)):
        with pytest.raises(MissingToolError, match=r"pip install 'pixvoice\[cluster\]'"), on_ray:
            pass
