import pytest

from bench.analysis.trust import busy_s, duration_s, measured_s, summarise, trust
from bench.records.host import Fingerprint, FingerprintChange
from bench.records.results import ForeignFingerprint, NoiseClass
from bench.records.run import (
    Certificate,
    Disturbance,
    DisturbanceKind,
    Doubt,
    DoubtKind,
    Monitor,
    Outcome,
    PlacementVerdict,
    Result,
    Run,
    Window,
)
from tests.analysis.cells import made_cell

PROVED = Certificate(verdict=PlacementVerdict.PROVED)
DISTURBANCE = Disturbance(kind=DisturbanceKind.OTHER_PROCESSES, text="another process")


def run(repeat=1, certificate=PROVED, cell="a", **changes):
    result = Result(throughput_samples_s=1.0, certificate=certificate, windows=changes.pop("windows", []))
    label = "traced" if repeat == "traced" else f"r{repeat}"
    return Run(**{"run": f"{cell}_{label}", "cell": cell, "repeat": repeat, "status": Outcome.OK, "result": result}
               | changes)  # fmt: skip


def test_only_runs_that_succeeded_and_are_proved_count():
    doubt = Doubt(kind=DoubtKind.PAGES, text="3 % of the pages are on node 2")
    unproved = Certificate(verdict=PlacementVerdict.UNPROVED, reasons=[doubt])
    runs = [run(1), run(2, unproved), run(3, status=Outcome.OOM), run("traced", None)]
    found = trust(runs, [], Fingerprint())
    assert (found.runs_ok, found.timed_ok) == (3, 2)
    assert (found.proved, found.unproved) == (1, ("a_r2", "a_traced"))
    assert found.unproved_reasons == {"a_r2": (doubt,), "a_traced": ()}


def test_throttled_and_disturbed_runs_are_named():
    monitors = [Monitor(throttle_reasons=["power cap"]), Monitor(disturbed=[DISTURBANCE], throttle_known=False), None]
    found = trust([run(repeat, monitor=monitor) for repeat, monitor in enumerate(monitors, 1)], [], Fingerprint())
    assert (found.monitored, found.throttled, found.disturbed) == (2, ("a_r1",), ("a_r2",))
    assert (found.throttling_unknown, found.disturbed_by) == (("a_r2",), {"a_r2": (DISTURBANCE,)})


def test_runs_under_another_fingerprint_are_named():
    runs = [run(repeat, fingerprint=Fingerprint(driver=driver, torch="2")) for repeat, driver in enumerate("112", 1)]
    found = trust(runs, [], Fingerprint(driver="1", torch="2", kernel="6"))
    change = FingerprintChange(fact="driver", before="1", after="2")
    assert found.foreign_fingerprints == (ForeignFingerprint(runs=("a_r3",), changes=(change,)),)


def test_noise_is_the_median_by_class_of_cells_with_repeats():
    cells = [
        made_cell([1.0], noise_class=name, more={"throughput_spread": spread})
        for name, spread in [
            ("device-bound", 0.01),
            ("device-bound", 0.03),
            ("device-bound", None),
            ("launch-bound", 0.2),
        ]
    ]
    found = trust([], cells, Fingerprint(), noise_floor=0.004)
    assert found.noise == {NoiseClass.LAUNCH_BOUND: 0.2, NoiseClass.DEVICE_BOUND: 0.02}
    assert found.noise_floor == 0.004


def test_duration_is_from_the_first_start_to_the_last_end():
    starts = [("2026-11-22T10:00:10Z", 5.0), ("2026-11-22T10:00:00Z", 2.5), ("", 100.0), ("garbage", 1.0)]
    runs = [run(repeat, started_at=start, wall_s=wall_s) for repeat, (start, wall_s) in enumerate(starts, 1)]
    assert duration_s(runs) == 15.0
    assert busy_s(runs) == 108.5


def test_without_runs_there_is_no_duration():
    assert (duration_s([]), busy_s([]), measured_s([])) == (0.0, 0.0, 0.0)


def test_measured_s_is_the_windows_of_timed_runs():
    windows = [Window(batches=1, duration_s=0.5), Window(batches=1, duration_s=0.25)]
    runs = [run(1, windows=windows), run(2, result=None, status=Outcome.OOM), run("traced", windows=windows)]
    assert measured_s(runs) == 0.75


def test_the_summary_counts_and_names_the_failures(numa_results):
    summary = summarise(numa_results)
    assert summary.success_rate == pytest.approx(45 / 48)
    assert {failure.outcome for failure in summary.failures} == {Outcome.OOM, Outcome.TIMEOUT, Outcome.MISPLACED}
    assert {failure.run for failure in summary.failures} >= {"pipeline_gpu3_numa0_vit32x2x128_r2"}
    assert summary.duration_s > 0
    assert 0 < summary.measured_s < summary.busy_s
