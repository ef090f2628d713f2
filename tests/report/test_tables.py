import csv
import io

from bench.report.tables import cells_table, csv_text
from tests.report.made import changed, with_cell


def rows_of(view):
    return list(csv.DictReader(io.StringIO(csv_text(view.results.cells))))


def test_csv_has_one_row_a_cell_and_numbers_in_full(numa_view):
    rows = rows_of(numa_view)
    assert len(rows) == 48
    assert [float(row["throughput_samples_s"]) for row in rows] == [
        cell.throughput_samples_s for cell in numa_view.results.cells
    ]


def test_csv_keeps_hostile_text_in_one_field(quick_run, view_of):
    view = view_of(quick_run)
    rows = rows_of(with_cell(view, view.results.cells[0].name, reason='a "quoted", line\nand another'))
    assert rows[0]["reason"] == 'a "quoted", line\nand another'
    assert len(rows) == 3


def test_pandas_reads_the_csv(numa_view):
    import pandas

    frame = pandas.read_csv(io.StringIO(csv_text(numa_view.results.cells)))
    assert frame["outcome"].value_counts()["ok"] == 45
    assert frame["h2d_bandwidth_gb_s"].dtype == float


def test_the_table_names_cells_failures_and_the_cpu_device(numa_view, quick_run, view_of):
    table = cells_table(numa_view.results)
    assert "pipeline_gpu2_numa0_vit16x8x768: timeout: not done after 600 s" in table
    assert "CPU device" not in table
    assert cells_table(view_of(quick_run).results).endswith("CPU device: no GPU was measured")


def test_the_columns_line_up(numa_view):
    lines = cells_table(numa_view.results).splitlines()[1:50]
    end = lines[0].index("  ", 5)
    assert all(line[end : end + 2] == "  " for line in lines)


def test_an_unbound_study_says_so(quick_run, view_of):
    assert "Nothing was bound" in cells_table(changed(view_of(quick_run), binding="none").results)


def test_csv_runs_no_formula_in_a_spreadsheet(quick_run, view_of):
    view = view_of(quick_run)
    assert (
        rows_of(with_cell(view, view.results.cells[0].name, reason="=cmd|' /C calc'!A0"))[0]["reason"]
        == "'=cmd|' /C calc'!A0"
    )


def test_the_table_marks_untraced_cells(quick_run, view_of):
    for file in (quick_run / "runs").glob("*_traced.json"):
        file.unlink()
    assert cells_table(view_of(quick_run).results).count("not traced") == 6


def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(numa_view):
    wide, narrow = (cells_table(numa_view.results, width).splitlines() for width in (None, 80))
    assert len(wide[0]) > 100 and len(narrow[0]) <= 80
    assert narrow[0].split()[:3] == ["cell", "outcome", "samples/s"]
    assert {line.split()[0] for line in narrow[2:50]} == {line.split()[0] for line in wide[2:50]}
