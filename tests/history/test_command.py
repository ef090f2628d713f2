import json
import shutil

from click.testing import CliRunner

from bench.cli import main
from bench.report.build import make_report
from tests.run_directories import build_run_directory


def call(*options):
    return CliRunner().invoke(main, ["history", *map(str, options)])


def test_add_list_and_draw(tmp_path):
    outputs = tmp_path / "outputs"
    run = build_run_directory(outputs / "quick_test/2026-11-22/01-30-00", "quick_test")
    make_report(run, "test")
    added = call("--output-dir", outputs, "--add", run)
    assert added.exit_code == 0, added.output
    assert "quick_test/2026-11-22/01-30-00" in added.output
    assert (outputs / "index.html").is_file()

    listing = json.loads(call("--output-dir", outputs, "--json", "--since", "2026-11-01").stdout)
    assert [(study["study_name"], len(study["measured"])) for study in listing["studies"]] == [("quick_test", 3)]
    assert call("--output-dir", outputs, "--host", "nobody").output == "no study matches\n"
    assert call("--output-dir", outputs, "--page").output == f"page: {outputs / 'index.html'}\n"


def test_a_moved_run_directory_is_added_with_its_new_path(tmp_path):
    run = build_run_directory(tmp_path / "first" / "run", "quick_test")
    make_report(run, "test")
    shutil.move(run, tmp_path / "outputs")
    assert call("--output-dir", tmp_path, "--add", tmp_path / "outputs").output.splitlines()[-1].endswith("outputs")


def test_no_history_is_an_error_by_name(tmp_path):
    answer = call("--output-dir", tmp_path)
    assert answer.exit_code == 2
    assert "there is no history yet" in answer.output
