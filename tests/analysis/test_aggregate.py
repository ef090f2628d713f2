import json
import math
from pathlib import Path

import pytest
from msgspec import structs

from bench.analysis.aggregate import (
    clocks,
    measured_cell,
    merge_latencies,
    unmeasured_cells,
)
from bench.analysis.contention import peers_of_cell, transfer_rates_gb_s
from bench.analysis.links import ceiling, isolated_gb_s, link_entries
from bench.analysis.load import load
from bench.analysis.verdicts import noise_class
from bench.records.base import convert
from bench.records.results import (
    CeilingSource,
    CellRemarkKind,
    CellState,
    Extremes,
    NoiseClass,
    Term,
    TransferBytes,
)
from bench.records.run import (
    Compilation,
    Disturbance,
    DisturbanceKind,
    Latency,
    Link,
    Monitor,
    Outcome,
    Peer,
    Result,
    Run,
    Stages,
    StartMethod,
    Warmup,
    Window,
)
from bench.records.study import run_name
from bench.records.trace import Regime
from tests.analysis.cells import made_cell
from tests.child_results import made_link
from tests.run_directories import build_run_directory, topology_json

CELL = "pipeline_gpu0_numa0_vit0x0x0"
R1, R2, R3, TRACED = 1, 2, 3, "traced"


def with_result(run, **changes):
    return structs.replace(run, result=structs.replace(run.result, **changes))


def repeated(run, repeat, **changes):
    return structs.replace(run, run=run_name(run.cell, repeat), repeat=repeat, block=repeat, **changes)


def failed(stage, status="oom", reason="why"):
    more = {"log_tail": ["last"], "result": None} if isinstance(stage, Run) else {}
    return structs.replace(stage, status=Outcome(status), reason=reason, advice="do", **more)


@pytest.fixture
def measure(quick_run):
    """A cell after `change(parts)`; parts: runs by repeat, "export", "extraction" and "metrics"."""

    def make(change=None, repeats=1):
        data = load(quick_run)
        cell = next(cell for cell in data.cells if cell.name == CELL)
        entry = next(entry for entry in unmeasured_cells(data.cells, data.study) if entry.name == CELL)
        parts = {run.repeat: run for run in data.runs_of(CELL)}
        parts |= {"export": data.exports[CELL], "extraction": data.extractions[CELL], "metrics": data.metrics[CELL]}
        if change:
            change(parts)
        stages = [parts.pop(name, None) for name in ("export", "extraction", "metrics")]
        return measured_cell(entry, cell, list(parts.values()), *stages, repeats)

    return make


def test_a_measured_cell_is_done(measure):
    cell = measure()
    assert (cell.outcome, cell.state, cell.reason, cell.failed_run) == (Outcome.OK, CellState.DONE, "", None)
    assert cell.throughput_samples_s == pytest.approx(cell.throughput_runs[0])
    assert cell.throughput_spread is None
    assert cell.metrics.window_ns > 0
    assert cell.remarks == ()


def test_throughput_is_the_geometric_mean_of_the_runs(measure):
    def twice(parts):
        parts[R1] = with_result(parts[R1], throughput_samples_s=100.0)
        parts[R2] = with_result(repeated(parts[R1], R2), throughput_samples_s=400.0)

    cell = measure(twice, repeats=2)
    assert cell.throughput_samples_s == pytest.approx(200.0)
    assert cell.throughput_spread == pytest.approx(math.sqrt(2) * 150 / 250)


def disturbed_second(number):
    """Runs of 100, 200 (disturbed) and 100 samples/s."""
    monitor = Monitor(disturbed=[Disturbance(kind=DisturbanceKind.OTHER_PROCESSES, text="another process")])

    def change(parts):
        first = with_result(parts[R1], throughput_samples_s=100.0)
        second = with_result(repeated(first, R2, monitor=monitor), throughput_samples_s=200.0)
        for run in (first, second, repeated(first, R3))[:number]:
            parts[run.repeat] = run

    return change


def test_a_disturbed_run_is_excluded_if_two_others_remain(measure):
    """As in its comparisons: a page shows one throughput of a cell."""
    cell = measure(disturbed_second(3))
    assert cell.throughput_runs == (100.0, 100.0) and cell.throughput_samples_s == pytest.approx(100.0)
    assert [run.disturbed for run in cell.runs].count(True) == 1
    remark = cell.remarks[-1]
    assert (remark.kind, remark.count, remark.total) == (CellRemarkKind.DISTURBED_EXCLUDED, 1, 3)
    assert measure(disturbed_second(2)).throughput_runs == (100.0, 200.0), "one undisturbed run has no spread"


def test_a_failed_timed_run_fails_the_cell_and_keeps_its_log(measure):
    cell = measure(lambda parts: parts.update({R1: failed(parts[R1])}))
    assert (cell.outcome, cell.state, cell.reason, cell.advice) == (Outcome.OOM, CellState.FAILED, "why", "do")
    assert (cell.log_tail, cell.failed_run, cell.failed_repeat) == (("last",), f"{CELL}_r1", 1)
    assert cell.throughput_samples_s is None
    assert cell.perturbation is None


@pytest.mark.parametrize("stage", ["export", "extraction"])
def test_a_failed_stage_of_the_trace_keeps_the_throughput(measure, stage):
    cell = measure(lambda parts: parts.update({stage: failed(parts[stage], "trace_failed")}))
    assert (cell.outcome, cell.failed_run, cell.failed_repeat) == (Outcome.TRACE_FAILED, f"{CELL}_traced", "traced")
    assert cell.throughput_samples_s > 0


@pytest.mark.parametrize(("missing", "state"), [
    (R1, CellState.NOT_STARTED),
    (TRACED, CellState.NOT_TRACED),
    ("export", CellState.TRACE_NOT_READ),
    ("extraction", CellState.TRACE_NOT_READ),
])  # fmt: skip
def test_a_cell_without_a_record_is_missing(measure, missing, state):
    cell = measure(lambda parts: parts.pop(missing))
    assert (cell.outcome, cell.state) == (Outcome.MISSING, state)


def test_a_cell_without_a_repeat_that_was_asked_for_is_missing(measure):
    cell = measure(repeats=2)
    assert (cell.outcome, cell.state, cell.failed_run) == (Outcome.MISSING, CellState.STARTED, f"{CELL}_r2")


def test_repeats_beyond_those_asked_for_count_too(measure):
    def more(parts):
        parts[R2] = repeated(parts[R1], R2)
        parts[R3] = failed(repeated(parts[R1], R3), "crashed")

    cell = measure(more)
    assert len(cell.throughput_runs) == 2
    assert (cell.outcome, cell.failed_run) == (Outcome.CRASHED, f"{CELL}_r3")


def test_perturbation_is_traced_over_timed(measure):
    def rates(parts):
        parts[R1] = with_result(parts[R1], throughput_samples_s=200.0)
        parts[TRACED] = with_result(parts[TRACED], throughput_samples_s=150.0)

    cell = measure(rates)
    assert cell.perturbation == pytest.approx(0.75)
    (remark,) = cell.remarks
    assert (remark.kind, remark.ratio) == (CellRemarkKind.PROFILER_CHANGED_RATE, cell.perturbation)


def test_perturbation_ignores_forked_runs(measure):
    def forked_too(parts):
        parts[R1] = with_result(parts[R1], throughput_samples_s=200.0)
        forked = repeated(parts[R1], R2, start=StartMethod.FORK)
        parts[R2] = with_result(forked, throughput_samples_s=300.0)
        parts[TRACED] = with_result(parts[TRACED], throughput_samples_s=150.0)

    cell = measure(forked_too)
    assert cell.throughput_runs == (200.0, 300.0)
    assert cell.perturbation == pytest.approx(0.75)
    forked = measure(lambda parts: parts.update({R1: structs.replace(parts[R1], start=StartMethod.FORK)}))
    assert forked.perturbation is None


def test_waited_share_is_of_the_measured_batches(measure, quick_run):
    assert measure().waited_share is None, "no batches are prepared"
    data = load(quick_run)
    cell = structs.replace(data.cells[0], preprocess_queue=2)
    windows = [Window(batches=10, duration_s=0.1), Window(batches=30, duration_s=0.3)]
    run = with_result(data.runs_of(cell.name)[0], windows=windows, waited_batches_in_windows=4)
    (entry,) = unmeasured_cells([cell], data.study)
    assert measured_cell(entry, cell, [run], None, None, None, 1).waited_share == pytest.approx(0.1)


def test_compile_s_is_of_all_processes_that_compiled(measure):
    assert measure().compile_s is None

    def compiled(**compile_s):
        def change(parts):
            for repeat, seconds in zip((R1, TRACED), compile_s.values(), strict=True):
                parts[repeat] = with_result(parts[repeat], compile=Compilation(mode="default", compile_s=seconds))

        return change

    assert measure(compiled(first=13.8, traced=3.8)).compile_s == Extremes(least=3.8, most=13.8)
    assert measure(compiled(first=None, traced=None)).compile_s is None


@pytest.mark.parametrize(
    ("regime", "expected"), [("launch-bound", NoiseClass.LAUNCH_BOUND), ("balanced", NoiseClass.DEVICE_BOUND)]
)
def test_noise_class_follows_the_measured_regime(measure, regime, expected):
    def change(parts):
        parts["metrics"] = structs.replace(parts["metrics"], regime=Regime(regime))

    assert measure(change).noise_class is expected


@pytest.mark.parametrize(("issue_us", "expected"), [(20.0, NoiseClass.DEVICE_BOUND), (140.0, NoiseClass.LAUNCH_BOUND)])
def test_without_a_trace_noise_class_follows_the_bound(measure, issue_us, expected):
    def untraced(parts):
        parts["metrics"] = None
        stages = Stages(h2d=100.0, compute=50.0, d2h=90.0)
        parts[R1] = with_result(parts[R1], solo_us=stages, issue_us=issue_us)

    assert measure(untraced).noise_class is expected


def test_bound_and_trace_give_one_noise_class_on_every_gpu():
    both = [
        (noise_class(Regime(regime)), noise_class(None, Term(limit)))
        for file in (Path(__file__).parents[2] / "docs" / "reference").glob("h?00_*/results.json")
        for cell in json.loads(file.read_text())["cells"]
        if (regime := (cell["metrics"] or {}).get("regime")) and (limit := (cell["bound"] or {}).get("limit"))
    ]
    classes = {NoiseClass.LAUNCH_BOUND, NoiseClass.DEVICE_BOUND}
    assert len(both) > 25 and {by_trace for by_trace, _ in both} == classes
    assert all(by_trace is by_limit for by_trace, by_limit in both)


def test_warm_ups_that_did_not_settle_are_counted(measure):
    def unsettled(parts):
        for repeat, spread in ((R1, 0.02), (R2, 0.097), (R3, None)):
            warmup = Warmup(settled=repeat == R1, spread=spread)
            parts[repeat] = with_result(repeated(parts[R1], repeat), warmup=warmup)

    (remark,) = measure(unsettled).remarks
    assert remark.kind is CellRemarkKind.WARMUP_NOT_SETTLED
    assert (remark.count, remark.total, remark.ratio) == (2, 3, 0.097)


def test_warm_ups_of_traced_and_failed_runs_do_not_count(measure):
    def unsettled(parts):
        for repeat in (R1, TRACED):
            parts[repeat] = with_result(parts[repeat], warmup=Warmup(settled=False, spread=0.2))
        parts[R1] = structs.replace(parts[R1], status=Outcome.OOM)

    assert measure(unsettled).remarks == ()


def test_second_attempts_are_remarked_with_the_first_reason(measure):
    def retried(parts):
        parts[R1] = structs.replace(parts[R1], attempts=2, failed_before="exit code 7")

    (remark,) = measure(retried).remarks
    assert (remark.kind, remark.count, remark.other) == (CellRemarkKind.SECOND_ATTEMPT, 1, "exit code 7")


def test_a_bound_above_the_measured_time_is_remarked(measure):
    def slowed(parts):
        stages = Stages(h2d=1.0, compute=1e9, d2h=1.0)
        parts[R1] = with_result(parts[R1], solo_us=stages)

    (remark,) = measure(slowed).remarks
    assert (remark.kind, remark.term) == (CellRemarkKind.BOUND_ABOVE_MEASURED, Term.COMPUTE) and remark.ratio > 1


def test_latencies_merge_by_the_median_and_the_largest_maximum():
    runs = [Latency(count=10, p50=p50, max=2 * p50) for p50 in (1.0, 5.0, 2.0)]
    assert merge_latencies([*runs, None]) == Latency(count=30, p50=2.0, max=10.0)
    assert merge_latencies([None]) is None


def test_a_percentile_that_one_run_does_not_support_is_not_of_the_others():
    slow = Latency(count=256, p90=16_000.0, reasons={"p99": "p99 needs 299 batches, there are 256"})
    merged = merge_latencies([Latency(count=304, p90=2_900.0, p99=7_300.0), slow])
    assert merged and (merged.p90, merged.p99, merged.reasons) == (9_450.0, None, slow.reasons)


def test_quantiles_merge_point_by_point():
    runs = [Latency(quantiles=[float(rate)] * 100 + [None]) for rate in (1, 3, 8)]
    assert merge_latencies([*runs, Latency(quantiles=[9.0] * 3)]).quantiles == [3.0] * 100 + [None]


def test_differing_settings_are_those_that_are_not_the_studys(tmp_path):
    models = ["vit32x2x256", {"model": "vit32x2x256", "heads": 4}, "vit32x2x256"]
    study = {"name": "differ", "gpu_ids": [0], "numa_nodes": [0], "models": models, "axes": {"dtype": ["fp32", "bf16"]}}
    (tmp_path / "differ.yaml").write_text(json.dumps(study))
    run = build_run_directory(
        tmp_path / "run", str(tmp_path / "differ.yaml"), topology=topology_json(gpus=1, near=(0,), nodes=1)
    )
    data = load(run)
    found = [(cell.differing_settings, cell.occurrence) for cell in unmeasured_cells(data.cells, data.study)]
    half = {"dtype": "bf16"}
    assert sorted(found, key=str) == sorted(
        [({}, 0), (half, 0), ({"heads": 4}, 0), ({"heads": 4} | half, 0), ({}, 1), (half, 1)], key=str
    )


# Clocks


def clocks_of(quick_run, host_s=0.5, trace_s=0.5, events_us=100.0, trace_us=100.0, perturbation=1.0):
    data = load(quick_run)
    window = Window(batches=1, duration_s=host_s)
    traced = with_result(data.runs[f"{CELL}_traced"], windows=[window])
    metrics = data.metrics[CELL]
    metrics = structs.replace(
        metrics, window_ns=int(1e9 * trace_s), latency_us=structs.replace(metrics.latency_us, p50=trace_us)
    )
    return clocks(traced, metrics, Latency(p50=events_us), perturbation)


def test_clocks_that_agree_do_not_differ(quick_run):
    found = clocks_of(quick_run)
    assert (found.host_over_trace, found.events_over_trace) == (1.0, 1.0)
    assert (found.events_comparable, found.host_differs, found.events_differ) == (True, False, False)


@pytest.mark.parametrize("host_s", [0.515, 0.485])
def test_a_host_timer_that_differs_by_3_percent_is_reported(quick_run, host_s):
    found = clocks_of(quick_run, host_s=host_s)
    assert found.host_differs and found.host_over_trace == pytest.approx(host_s / 0.5)


def test_the_ends_of_a_short_pass_do_not_count(quick_run):
    assert not clocks_of(quick_run, host_s=0.0104, trace_s=0.0100).host_differs
    assert clocks_of(quick_run, host_s=0.0108, trace_s=0.0100).host_differs
    assert clocks_of(quick_run, host_s=0.0097, trace_s=0.0100).host_differs


def test_events_are_compared_if_the_profiler_changed_nothing(quick_run):
    assert clocks_of(quick_run, events_us=110.0).events_differ
    perturbed = clocks_of(quick_run, events_us=110.0, perturbation=0.94)
    assert not perturbed.events_differ and not perturbed.events_comparable
    assert perturbed.events_over_trace == pytest.approx(1.1)


def test_unknown_clocks_are_not_comparable():
    found = clocks(None, None, None, None)
    assert (found.host_over_trace, found.events_over_trace, found.events_comparable) == (None, None, False)


def test_clocks_that_differ_are_remarked(measure):
    def slow_timer(parts):
        windows = [Window(batches=1, duration_s=1e3)]
        parts[TRACED] = with_result(parts[TRACED], windows=windows)

    (remark,) = measure(slow_timer).remarks
    assert remark.kind is CellRemarkKind.HOST_CLOCK_DIFFERS and remark.ratio > 1


# Concurrent load

RESULT = Result(throughput_samples_s=1000.0, bytes_in_per_batch=6_000_000, bytes_out_per_batch=250_000)


def loaded(*peers):
    return Run(run="c_r1", cell="c", repeat=1, status=Outcome.OK, result=RESULT, peers=list(peers))


def peer(result=RESULT, status=Outcome.OK):
    return Peer(gpu=1, cpu_node=0, mem_node=0, status=status, result=result)


def test_transfer_rates_are_bytes_times_batches_per_second():
    assert transfer_rates_gb_s(1000.0, TransferBytes(h2d=6_000_000, d2h=250_000), 10) == (0.6, 0.025)
    assert transfer_rates_gb_s(None, TransferBytes(h2d=1, d2h=1), 10) == (None, None)
    assert transfer_rates_gb_s(1000.0, None, 10) == (None, None)


def test_peers_are_geometric_means_and_failures_are_counted():
    runs = [loaded(peer(structs.replace(RESULT, throughput_samples_s=rate))) for rate in (400.0, 900.0)]
    runs.append(loaded(peer(result=None, status=Outcome.CRASHED)))
    (found,) = peers_of_cell(runs, 10)
    assert found.throughput_samples_s == pytest.approx(600.0)
    assert found.h2d_gb_s == pytest.approx(0.36)
    assert (found.runs, found.failed) == (2, 1)
    assert peers_of_cell([loaded()], 10) == ()


def test_a_run_has_the_rates_of_its_peers(measure):
    cell = measure(lambda parts: parts.update({R1: structs.replace(parts[R1], peers=[peer()])}))
    (found,) = cell.runs[0].peers
    assert (found.gpu, found.status, found.throughput_samples_s) == (1, Outcome.OK, 1000.0)
    assert found.h2d_gb_s == pytest.approx(6e6 * 1000 / cell.settings.batch_size / 1e9)


# Links

NEAR = {0: 0}
COPIED = made_cell(
    [1.0], more={"solo_us": Stages(h2d=100.0, d2h=50.0), "bytes_per_batch": TransferBytes(h2d=5_000_000, d2h=1_000_000)}
)


def entries(**changed):
    records = {f"gpu0_numa{node}": made_link(0, node, node, NEAR) for node in (1, 0)}
    for record in records.values():
        record["result"] |= changed
    return link_entries({name: convert(record, Link) for name, record in records.items()})


def test_a_ceiling_is_the_best_node_by_nvbandwidth():
    links = entries()
    assert [link.mem_node for link in links] == [0, 1]
    best = ceiling(links, [COPIED], 0, "h2d")
    assert (best.gb_s, best.source) == (55.0, CeilingSource.NVBANDWIDTH)


def test_without_nvbandwidth_it_is_the_best_copy():
    copies = ceiling(entries(nvbandwidth_h2d_gb_s=None), [COPIED], 0, "h2d")
    assert copies.gb_s == pytest.approx(55.0, rel=0.01) and copies.source is CeilingSource.MICROBENCHMARK
    batch = ceiling([], [COPIED], 0, "h2d")
    assert (batch.gb_s, batch.source) == (50.0, CeilingSource.ISOLATED_BATCH)
    assert ceiling(entries(), [COPIED], 1, "h2d") is None
    assert isolated_gb_s(COPIED, "d2h") == 20.0


def test_a_link_that_failed_is_kept_with_its_reason():
    record = made_link(0, 0, 0, NEAR) | {"status": "oom", "reason": "1 GiB is not free", "result": None}
    (link,) = link_entries({"gpu0_numa0": convert(record, Link)})
    assert (link.status, link.reason, link.copies) == (Outcome.OOM, "1 GiB is not free", ())
