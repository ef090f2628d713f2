"""Figures are measured once: by what they measure, and by the code that they ran."""

from functools import partial

from tests.validation import kept
from tests.validation.goals import rate

CALLS = "calls"


def share(folder, hits):
    (folder / CALLS).open("a").write(".")
    return [rate("a promise", str(hits), hits)]


def test_figures_are_measured_once_and_keep_their_order(tmp_path, capsys):
    tasks = [partial(share, tmp_path, hits) for hits in ((True, False), (True, True))]
    first = list(kept.measured(tasks, tmp_path / "kept"))
    again = list(kept.measured(tasks[::-1], tmp_path / "kept"))
    assert first == again[::-1] and [one.value for one in first] == [0.5, 1.0]
    assert (tmp_path / CALLS).read_text() == ".."
    assert "2 of 2 in" in capsys.readouterr().err


def test_other_code_and_damaged_files_are_measured_again(tmp_path, monkeypatch):
    task = partial(share, tmp_path, (True,))
    list(kept.measured([task], tmp_path / "kept"))
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text("{")
    (figure,) = kept.measured([task], tmp_path / "kept")
    assert (figure.promise, figure.value) == ("a promise", 1.0)
    monkeypatch.setattr(kept, "code_version", lambda: "other")
    list(kept.measured([task], tmp_path / "kept"))
    assert (tmp_path / CALLS).read_text() == "..."
