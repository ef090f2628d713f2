from bench.results.trust import trust


def run(name, verdict="proved", monitor=None, status="ok"):
    return {"run": name, "status": status, "monitor": monitor, "result": {"certificate": {"verdict": verdict}}}


def test_only_ok_runs_count_and_only_proved_ones_are_proved():
    runs = [run("a"), run("b", "unbound"), run("c", status="oom"), {"run": "d", "status": "ok", "result": None}]
    found = trust(runs, [])
    assert (found["runs_ok"], found["proved"], found["unproved"]) == (3, 1, ["b", "d"])


def test_throttled_and_disturbed_runs_are_named():
    runs = [run("a", monitor={"throttle_reasons": ["power cap"]}), run("b", monitor={"disturbed": True}), run("c")]
    found = trust(runs, [])
    assert (found["monitored"], found["throttled"], found["disturbed"]) == (2, ["a"], ["b"])


def test_noise_is_the_median_by_class_of_cells_with_repeats():
    cells = [
        {"noise_class": name, "throughput_spread": spread}
        for name, spread in [("rest", 0.01), ("rest", 0.03), ("rest", None), ("launch-bound", 0.2)]
    ]
    assert trust([], cells)["noise"] == {"launch-bound": 0.2, "rest": 0.02}
