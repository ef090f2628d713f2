"""Synthetic runs of which the truth is known: the right delay is found in the right place, and no other."""

import numpy as np
import pytest

from bench.analysis.bound import StageTimes, bound_us
from bench.storage import write_json
from tests.validation.control_page import section, text_table
from tests.validation.control_plan import Group, Injection, groups
from tests.validation.control_results import summarise
from tests.validation.validate import write_controls

# Times of an H200 per batch, in us, and the contract's names of them.
TRUE = {
    "vit0x0x0": StageTimes(111.0, 0.0, 110.0, 12.7),
    "vit0x0x0_h2d-only": StageTimes(111.0, 0.0, 0.0, 9.0),
    "vit0x0x0_bs1_px64": StageTimes(3.0, 0.0, 3.0, 13.0),
    "vit32x2x128_graph": StageTimes(111.0, 228.0, 6.2, 20.0),
    "vit32x2x128_graph_tf32": StageTimes(111.0, 150.0, 6.2, 20.0),
    "vit32x2x128": StageTimes(111.0, 228.0, 6.2, 450.0),
}
REGIMES = {"h2d": "transfer-bound", "compute": "compute-bound", "issue": "launch-bound"}
NOISE = {"vit32x2x128": 0.05}


def test_every_delay_is_found_and_put_where_it_was():
    found = summarise("cuda", groups("cuda"), measured())
    counts = found["summary"]
    assert counts["as_expected"], text_table({**found, **RAW})
    assert counts["positive"] == counts["found"] == counts["attributed_solo"] == counts["attributed_trace"] == 12
    assert counts["negative"] == counts["negative_same"] == 6
    # 95 % intervals, and where a copy alone limits, the truth is on the edge of the bracket.
    assert counts["as_large_as_expected"] >= 10
    assert counts["predictions"] == 7 and counts["predictions_in_bracket"] >= 6
    assert {row["group"]: row["limit_solo"] for row in found["regimes"]} == {
        "vit0x0x0": "h2d", "vit0x0x0_h2d-only": "h2d", "vit0x0x0_bs1_px64": "issue", "vit32x2x128_graph": "compute",
        "vit32x2x128_graph_tf32": "compute", "vit32x2x128": "issue",
    }  # fmt: skip


def test_eager_launches_are_reported_and_not_judged():
    found = summarise("cuda", groups("cuda"), measured())
    eager = [row for row in found["controls"] if row["group"] == "vit32x2x128"]
    assert [row["resolvable"] for row in eager if row["kind"] == "positive"] == [False] * 3
    assert eager[0]["verdict"] in ("UNDECIDED", "NOT RESOLVABLE") and eager[0]["mde"] > 0.05


@pytest.mark.parametrize(("stage", "instead"), [("copy", "kernel"), ("kernel", "launch"), ("launch", "copy")])
def test_a_delay_elsewhere_is_not_attributed_to_the_stage(stage, instead):
    results = measured(swap={stage: instead})
    rows = [row for row in summarise("cuda", groups("cuda"), results)["controls"]
            if row["stage"] == stage and row["kind"] == "positive" and row["resolvable"]]  # fmt: skip
    assert rows
    for row in rows:
        assert row["attributed_solo"] != stage, row
        assert row["attributed_trace"] != stage, row


def test_what_a_delay_may_cost_is_known_beforehand():
    results = measured()
    for run in results["vit0x0x0"]["base"].values():  # the other direction slows the copies, as on a real link
        run["throughput_samples_s"] /= 1.11
    rows = {(row["group"], row["condition"]): row
            for row in summarise("cuda", groups("cuda"), results)["controls"]}  # fmt: skip
    both, alone = rows["vit0x0x0", "copy 5 %"], rows["vit0x0x0_h2d-only", "copy 5 %"]
    # Alone on the link all of it is lost. Two directions share it: something between nothing and all.
    assert alone["expected"] == pytest.approx((0.0476, 0.0476), abs=2e-3)
    assert both["expected"] == pytest.approx((0.0, 0.043), abs=2e-3)
    # Of a launch delay the wait as it was measured, not as it was asked for.
    launch = rows["vit0x0x0_bs1_px64", "launch 5 %"]
    assert launch["felt_us"] == pytest.approx(1.1 * launch["delay_us"])
    assert all(row["expected"] == (0.0, 0.0) for row in rows.values() if row["kind"] == "negative")


def test_a_trace_that_cannot_exclude_a_stage_names_none():
    results = measured()
    for runs in results["vit0x0x0_bs1_px64"].values():
        for run in runs.values():
            run["trace"]["error"]["h2d"] = 1.0
    rows = [row for row in summarise("cuda", groups("cuda"), results)["controls"] if row["stage"] == "launch"]
    assert {row["attributed_trace"] for row in rows if row["group"] == "vit0x0x0_bs1_px64"} == {"not attributed"}


def test_without_delays_nothing_is_found():
    found = summarise("cuda", groups("cuda"), measured(scale=0.0))
    positive = [row for row in found["controls"] if row["kind"] == "positive"]
    # 95 % intervals: of fifteen comparisons hardly more than two are without zero by chance.
    assert sum(row["found"] for row in positive) <= 2
    assert not found["summary"]["as_expected"]


def test_runs_and_traces_that_failed_cost_only_their_rows():
    results = measured()
    del results["vit32x2x128_graph"]["kernel 1 %"]
    del results["vit0x0x0"]["base"]
    for runs in results["vit0x0x0_bs1_px64"].values():
        for run in runs.values():
            del run["trace"]
    found = summarise("cuda", groups("cuda"), results)
    names = [(row["group"], row["condition"]) for row in found["controls"]]
    assert ("vit32x2x128_graph", "kernel 1 %") not in names and "vit0x0x0" not in {group for group, _ in names}
    launch = [row for row in found["controls"] if row["group"] == "vit0x0x0_bs1_px64"]
    assert {row["attributed_trace"] for row in launch} == {"not attributed"}
    assert {row["attributed_solo"] for row in launch if row["kind"] == "positive"} == {"launch"}
    assert not found["summary"]["as_expected"]


def test_the_page_names_every_control_and_every_failure():
    found = {**summarise("cuda", groups("cuda"), measured()), **RAW}
    for text in (section(found), text_table(found)):
        for group in groups("cuda"):
            for condition in group.conditions:
                assert condition.name in text or condition.ratio > 1
        assert "out of luck" in text and "1.0012" in text and "1.0050" in text


def measured(swap: dict[str, str] | None = None, scale: float = 1.0) -> dict:
    """Five blocks of every condition; the run differs from its truth by 0.15 % (5 % for eager launches)."""
    noise = np.random.default_rng(1)
    return {
        group.name: {
            name: {str(block): run(group, injection, noise, swap or {}, scale) for block in range(1, 6)}
            for name, injection in injections(group).items()
        }
        for group in groups("cuda")
    }


def injections(group: Group) -> dict[str, Injection]:
    true = TRUE[group.name]
    conditions = {each.name: each.injection(time_us(group, true), true.h2d_us) for each in group.conditions}
    return {"base": group.base, **conditions}


def time_us(group: Group, stages: StageTimes) -> float:
    return bound_us(stages, group.settings.get("buffers", 2), separate=stages.compute_us > 0)


def run(group: Group, injection: Injection, noise: np.random.Generator, swap: dict[str, str], scale: float) -> dict:
    h, k, d, issue = (getattr(TRUE[group.name], name) for name in ("h2d_us", "compute_us", "d2h_us", "issue_us"))
    stage, delay = swap.get(injection.stage, injection.stage), injection.delay_us * scale
    # A wait takes a little longer than was asked for, and is measured.
    waited = 1.1 * injection.delay_us if injection.stage == "launch" else 0.0
    delay *= 1.1 if injection.stage == "launch" else 1.0
    h, k, issue = (us + delay * (stage == each) for us, each in ((h, "copy"), (k, "kernel"), (issue, "launch")))
    stages = StageTimes(h, k, d, issue)
    limit = max({"h2d": h, "compute": k, "issue": issue}.items(), key=lambda term: term[1])[0]
    t = time_us(group, stages) * np.exp(noise.normal(0, NOISE.get(group.name, 0.0015)))
    solo = {name: us * np.exp(noise.normal(0, 0.0005)) for name, us in (("h2d", h), ("compute", k), ("d2h", d))}
    return {
        "throughput_samples_s": 1e6 * group.settings.get("batch_size", 10) / t,
        "solo_us": solo, "issue_us": issue * np.exp(noise.normal(0, 0.002)), "waited_us": waited,
        "device": {"name": "a GPU"}, "versions": {"torch": "2"},
        "buffer_layout": "separate" if k else "held", "injection": vars(injection),
        "trace": {**solo, "error": dict.fromkeys(solo, 0.01), "device": t, "idle": 0.0, "cpu": 2 * issue, "raw": None,
                  "regime": REGIMES[limit], "evidence": {}, "conservation": None, "wall_us": t},
    }  # fmt: skip


# A pair of events adds 2 us, to a train as to a single copy; the clocks themselves differ by 0.5 %.
COPY = {"way": "h2d", "bytes": 1 << 20, "event_us": 22.1, "trace_us": 20.0, "event_over_trace": 1.105,
        "train_event_us": 337.175, "train_trace_us": 333.5, "train_event_over_trace": 1.0110}  # fmt: skip
RAW = {
    "device": "cuda", "ran_s": 270.0, "processes": 31, "runs": {},
    "errors": [{"where": "block 3", "error": "out of luck"}],
    "clocks": {"empty_pair_us": 1.0, "copies": [COPY], "pipeline": {"event_over_trace": 1.0012}},
}  # fmt: skip


def test_the_section_is_made_anew_with_a_part_for_each_gpu(tmp_path):
    page, figures = tmp_path / "page.md", [tmp_path / "one.json", tmp_path / "two.json"]
    page.write_text("a\n<!-- controls: begin -->\nold\n<!-- controls: end -->\nb\n")
    for file in figures:
        write_json(file, {**summarise("cuda", groups("cuda"), measured()), **RAW})
    write_controls(page, figures)
    text = page.read_text()
    assert text.count("### On ") == 2
    assert "old" not in text and text.startswith("a\n") and text.endswith("b\n") and "12 of 12 found" in text
