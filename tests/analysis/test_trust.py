from bench.analysis.trust import trust


def run(name, verdict="proved", monitor=None, status="ok"):
    return {
        "run": name,
        "repeat": 1,
        "status": status,
        "monitor": monitor,
        "result": {"certificate": {"verdict": verdict}},
    }


def test_only_ok_runs_count_and_only_proved_ones_are_proved():
    runs = [
        run("a"),
        run("b", "unbound"),
        run("c", status="oom"),
        {"run": "d", "repeat": "traced", "status": "ok", "result": None},
    ]
    found = trust(runs, [])
    assert (found["runs_ok"], found["timed_ok"]) == (3, 2)
    assert (found["proved"], found["unproved"]) == (1, ["b", "d"])
    assert found["doubts"] == {"b": "it gives no reason", "d": "it left no certificate"}


def test_throttled_and_disturbed_runs_are_named():
    runs = [
        run("a", monitor={"throttle_reasons": ["power cap"]}),
        run("b", monitor={"disturbed": ["another process"], "throttle_known": False}),
        run("c"),
    ]
    found = trust(runs, [])
    assert (found["monitored"], found["throttled"], found["disturbed"]) == (2, ["a"], ["b"])
    assert (found["unseen"], found["disturbed_by"]) == (["b"], {"b": ["another process"]})


def test_runs_under_another_fingerprint_are_named_with_what_differs():
    runs = [
        run(name) | {"fingerprint": {"driver": driver, "torch": "2"}} for name, driver in zip("abc", "112", strict=True)
    ]
    (group,) = trust(runs, [], {"driver": "1", "torch": "2", "kernel": "6"})["strangers"]
    assert group == {"runs": ["c"], "differs": ["driver 2, the study's is 1"]}


def test_noise_is_the_median_by_class_of_cells_with_repeats():
    cells = [
        {"noise_class": name, "throughput_spread": spread}
        for name, spread in [("rest", 0.01), ("rest", 0.03), ("rest", None), ("launch-bound", 0.2)]
    ]
    assert trust([], cells)["noise"] == {"launch-bound": 0.2, "rest": 0.02}
