"""Where Nsight Systems and its importer are looked for."""

from pathlib import Path

import pytest

from bench.host.fingerprint import find_importer, find_nsys, nsys_version


def test_the_importer_is_looked_for_where_nsys_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.host.fingerprint.IMPORTERS", ())
    target, beside = tmp_path / "target-linux-x64", tmp_path / "host-linux-x64"
    target.mkdir()
    beside.mkdir()
    (target / "nsys").touch()
    (tmp_path / "bin").symlink_to(target)
    assert find_importer(tmp_path / "bin" / "nsys") is None
    (beside / "QdstrmImporter").touch()
    assert find_importer(tmp_path / "bin" / "nsys") == beside / "QdstrmImporter"


def test_the_newest_of_the_usual_places_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2024.9.1", "2024.10.2"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "nsys").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", (f"{tmp_path}/*/bin/nsys",))
    assert find_nsys() == tmp_path / "2024.10.2" / "bin" / "nsys"
    assert nsys_version() == "2024.10.2"


def test_none_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", ())
    assert find_nsys() is None and nsys_version() == "none"


def test_the_version_is_read(real_nsys: None) -> None:
    assert nsys_version()[:2] == "20"
