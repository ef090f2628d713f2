import csv
import io

from bench.report.tables import cells_table, csv_text


def rows_of(results):
    return list(csv.DictReader(io.StringIO(csv_text(results["cells"]))))


def test_csv_has_one_row_a_cell_and_numbers_in_full(numa_results):
    rows = rows_of(numa_results)
    assert len(rows) == 48
    assert [float(row["throughput_samples_s"]) for row in rows] == [
        cell["throughput_samples_s"] for cell in numa_results["cells"]
    ]


def test_csv_keeps_what_is_hostile_in_one_field(quick_run, results_of):
    results = results_of(quick_run)
    results["cells"][0]["reason"] = 'a "quoted", line\nand another'
    rows = rows_of(results)
    assert rows[0]["reason"] == 'a "quoted", line\nand another'
    assert len(rows) == 3


def test_csv_of_pandas_reads_it(numa_results):
    import pandas

    frame = pandas.read_csv(io.StringIO(csv_text(numa_results["cells"])))
    assert frame["outcome"].value_counts()["ok"] == 45
    assert frame["h2d_bandwidth_gb_s"].dtype == float


def test_the_table_names_cells_failures_and_the_cpu_device(numa_results, quick_run, results_of):
    table = cells_table(numa_results)
    assert "pipeline_gpu2_numa0_vit16x8x768: timeout: not done after 600 s" in table
    assert "CPU device" not in table
    assert cells_table(results_of(quick_run)).endswith("CPU device: no GPU was measured")


def test_the_columns_line_up(numa_results):
    lines = cells_table(numa_results).splitlines()[1:50]
    end = lines[0].index("  ", 5)
    assert all(line[end : end + 2] == "  " for line in lines)


def test_an_unbound_study_says_so(quick_run, results_of):
    results = results_of(quick_run) | {"binding": "none"}
    assert "nothing was bound" in cells_table(results)


def test_csv_runs_no_formula_in_a_spreadsheet(quick_run, results_of):
    results = results_of(quick_run)
    results["cells"][0]["reason"] = "=cmd|' /C calc'!A0"
    assert rows_of(results)[0]["reason"] == "'=cmd|' /C calc'!A0"


def test_the_table_says_what_is_not_traced(quick_run, results_of):
    for file in (quick_run / "runs").glob("*_traced.json"):
        file.unlink()
    assert cells_table(results_of(quick_run)).count("not traced") == 6
