import pytest
from msgspec.structs import replace

from bench.history.database import add_study, open_history
from bench.history.query import studies
from bench.history.trends import series
from bench.records.host import FingerprintChange
from tests.history.synthetic import FINGERPRINT, crossed, made_results, quiet_rates, rates_of

CELL = "pipeline_gpu0_numa0_vit0x0x0"


@pytest.fixture
def history(tmp_path):
    rows = quiet_rates(4)
    for number, row in enumerate(rows, 1):
        facts = replace(FINGERPRINT, driver="580.1" if number < 3 else "590.2")
        results = made_results(tmp_path, number, rates_of(row), fingerprint=facts)
        if number == 4:
            results = replace(results, host="other")
        add_study(results, tmp_path / "history.db")
    with open_history(tmp_path / "history.db") as opened:
        yield opened


def test_studies_come_newest_first_and_can_be_selected(history):
    def nights(**selected):
        return [study.night[-2:] for study in studies(history, **selected)]

    assert nights() == ["04", "03", "02", "01"]
    assert nights(since="2026-01-03") == ["04", "03"]
    assert nights(host="other") == ["04"]
    assert nights(study="quick_test") == []


def test_series_separate_hosts_and_have_what_changed(history):
    first, second = series(history)
    assert (first.host, len(first.studies), first.changes) == ("other", 1, {})
    assert [study.night[-2:] for study in second.studies] == ["01", "02", "03"]
    change = FingerprintChange(fact="driver", before="580.1", after="590.2")
    assert second.changes == {second.studies[2].id: (change,)}


def test_trends_keep_the_order_of_time_and_the_values(history):
    trend = series(history)[1].trends[5]
    rows = quiet_rates(4)
    assert trend.cell == "pipeline_gpu0_numa0_vit16x12x1024"
    assert [point.value for point in trend.points] == pytest.approx(rows[:3, 5])


def test_another_design_is_another_series_of_the_cell(tmp_path):
    for number in (1, 2):
        add_study(made_results(tmp_path, number, {CELL: 1000.0}), tmp_path / "history.db")
    for number in (3, 4):
        add_study(crossed(made_results(tmp_path, number, {CELL: 1200.0})), tmp_path / "history.db")
    with open_history(tmp_path / "history.db") as history:
        (one,) = series(history)
        old, new = one.trends
        assert history["cells"].count == 1
    assert (old.design, old.continued, old.before) == ("processes", True, None)
    assert (new.design, new.continued, new.before) == ("crossing", False, "processes")
    assert [len(trend.points) for trend in one.trends] == [2, 2]
