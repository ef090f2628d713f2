from pathlib import Path

import pytest

from bench.errors import StudyError
from bench.nightly.config import Entry, read_nightly
from bench.study.load import configs_folder, load_study


def read(tmp_path: Path, text: str):
    path = tmp_path / "nightly.yaml"
    path.write_text(text)
    return read_nightly(path)


def test_the_shipped_list():
    nightly = read_nightly(configs_folder() / "nightly.yaml")
    assert [entry.study for entry in nightly.studies] == ["QuickTest", "NumaStudy"]
    assert (nightly.nights, nightly.since, nightly.on_regression) == (28, "", ())


def test_all_keys(tmp_path):
    (tmp_path / "own.yaml").touch()
    (tmp_path / "good").mkdir()
    nightly = read(
        tmp_path,
        """
studies: [NumaStudy, own.yaml, {study: QuickTest, repeats: 3, baseline: good}]
baseline_nights: 14
since: 2026-11-01
confirm_next_night: true
on_regression: [mail, -s, slower, me]
""",
    )
    assert nightly.studies == (
        Entry("NumaStudy", None, {}, None),
        Entry("", tmp_path / "own.yaml", {}, None),
        Entry("QuickTest", None, {"repeats": 3}, tmp_path / "good"),
    )
    assert (nightly.nights, nightly.since, nightly.confirm_next_night) == (14, "2026-11-01", True)
    assert nightly.on_regression == ("mail", "-s", "slower", "me")


def test_another_shipped_study_is_found_by_name(tmp_path):
    (entry,) = read(tmp_path, "studies: [{study: compile_study, sweep: {batch_size: [1, 10]}}]").studies
    assert entry == Entry("", configs_folder() / "compile_study.yaml", {"sweep": {"batch_size": [1, 10]}}, None)
    (tmp_path / "compile_study").touch()
    assert read(tmp_path, "studies: [compile_study]").studies[0].config_file == tmp_path / "compile_study"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("studies: [compil_study]", "did you mean compile_study?"),
        ("studies: [NumaStdy]", "did you mean NumaStudy?"),
        ("studies: []", "allowed is a list of studies"),
        ("studies: [QuickTest]\nconfirm_next_night: 1", "found 1, allowed is true or false"),
        ("study: NumaStudy", "did you mean studies?"),
        ("- NumaStudy", "mapping with the key studies"),
        ("studies: [{repeats: 3}]", "a mapping with the key study"),
        ("studies: [QuickTest, QuickTest]", "listed twice"),
        ("studies: [{study: QuickTest, baseline: nowhere}]", "there is no run directory 'nowhere'"),
        ("{studies: [QuickTest], baseline_nights: 2}", "from 5 to 3650"),
        ("{studies: [QuickTest], since: yesterday}", "a date as 2026-11-22"),
        ("{studies: [QuickTest], on_regression: mail -s 'got slower' me}", "['mail', '-s', 'got slower', 'me']"),
        ("{studies: [QuickTest], on_regression: [mail, 3]}", "a list of texts"),
        ("studies: [", "not valid YAML"),
    ],
)
def test_an_invalid_list_is_refused_with_file_and_key(tmp_path, text, part):
    with pytest.raises(StudyError) as refused:
        read(tmp_path, text)
    assert part in str(refused.value)
    assert "nightly.yaml" in refused.value.where


def test_a_missing_file(tmp_path):
    with pytest.raises(StudyError, match="cannot read"):
        read_nightly(tmp_path / "nightly.yaml")


def test_a_study_that_needs_a_gpu_is_measured_on_cuda_only(tmp_path):
    (tmp_path / "nightly.yaml").write_text("studies: [{study: NumaStudy, needs_gpu: true, repeats: 3}]")
    (entry,) = read_nightly(tmp_path / "nightly.yaml").studies
    assert entry.needs_gpu and entry.overrides == {"device": "cuda", "repeats": 3}
    (tmp_path / "nightly.yaml").write_text("studies: [{study: NumaStudy, needs_gpu: perhaps}]")
    with pytest.raises(StudyError, match="true or false"):
        read_nightly(tmp_path / "nightly.yaml")


def test_the_shipped_list_works_with_and_without_a_gpu():
    quick, numa = read_nightly(configs_folder() / "nightly.yaml").studies
    assert (quick.study, quick.needs_gpu, numa.study, numa.needs_gpu) == ("QuickTest", False, "NumaStudy", True)
    assert load_study(configs_folder() / "numa_locality_study.yaml", numa.overrides).settings.cuda_graph is True
