import json
from pathlib import Path

import pytest
import yaml

from bench.cluster.directory import ClusterDirectory, find_or_create, study_text
from bench.cluster.status import status
from bench.errors import StudyError
from bench.records.cluster import HostJobs
from bench.study.load import load_study, read_study, shipped_names


@pytest.mark.parametrize("name", shipped_names())
def test_study_file_defines_the_same_study(tmp_path: Path, name: str) -> None:
    """As a file, for each host to read again."""
    study = load_study(name, {"repeats": 3})
    file = tmp_path / "study.yaml"
    file.write_text(study_text(study))
    assert load_study(file) == study


def test_all_gpus_and_nodes_remain_all() -> None:
    study = load_study("quick_test", {"gpu_ids": "all", "numa_nodes": "all"})
    assert read_study(yaml.safe_load(study_text(study)), "text") == study


def test_same_study_on_the_same_hosts_continues_in_its_folder(tmp_path: Path) -> None:
    study = load_study("quick_test")
    first = find_or_create(study, ["n1", "n2"], tmp_path, "", fresh=False)
    assert find_or_create(study, ["n2", "n1"], tmp_path, "", fresh=False) == first
    others = [
        find_or_create(study, ["n1", "n2", "n3"], tmp_path, "", fresh=False),
        find_or_create(load_study("quick_test", {"repeats": 2}), ["n1", "n2"], tmp_path, "", fresh=False),
        find_or_create(study, ["n1", "n2"], tmp_path, "", fresh=True),
    ]
    assert len({first.path, *(other.path for other in others)}) == 4
    assert first.read().hosts == {"n1": HostJobs(jobs=()), "n2": HostJobs(jobs=())}
    assert first.host("n1").outputs == tmp_path
    assert first.host("n1").of_cluster


def test_folder_without_cluster_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no cluster\.json"):
        ClusterDirectory(tmp_path).read()


@pytest.mark.parametrize(
    "text",
    ["[1]", "null", "{", "{}", *(
        json.dumps({"study": "s", "scheduler": "", "hosts": hosts})
        for hosts in ({}, [], {"n1": []}, {"n1": {}}, {"n1": {"jobs": [{}]}}, {"n1": {"jobs": [{"id": 7}]}},
                      {"../n1": {"jobs": []}}, {"": {"jobs": []}}, {"..": {"jobs": []}})
    )],
)  # fmt: skip
def test_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(StudyError) as raised:
        status(tmp_path)
    assert raised.value.where == str(tmp_path / "cluster.json")


def test_only_one_process_writes_at_a_time(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path)
    with (
        directory.lock(),
        pytest.raises(StudyError, match="another process has used this folder"),
        ClusterDirectory(tmp_path).lock(wait_s=0.2),
    ):
        pass
    with directory.lock(wait_s=0):
        pass
