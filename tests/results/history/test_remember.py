from bench.history.page import into_history
from tests.results.history.synthetic import made_results


def test_a_finished_study_is_in_the_history_and_on_the_page(tmp_path):
    assert into_history(made_results(tmp_path, 1, {"pipeline_gpu0_numa0_vit0x0x0": 100.0}), tmp_path)
    assert (tmp_path / "history.db").is_file()
    assert "vit0x0x0" in (tmp_path / "index.html").read_text()


def test_a_history_that_cannot_be_used_costs_no_study(tmp_path, capsys):
    (tmp_path / "history.db").write_bytes(b"no database" * 100)
    assert not into_history(made_results(tmp_path, 1, {"pipeline_gpu0_numa0_vit0x0x0": 100.0}), tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("not in the history:")
    assert "numastudy history --add" in said
