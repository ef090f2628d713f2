from bench.report.axes import regime_line


def told(series, key="image_size", base=256):
    """series: model -> {value: regime}."""
    cells = {f"{model}_{value}": {"metrics": regime and {"regime": regime}, "settings": {key: value}, "model": {}}
             for model, regimes in series.items() for value, regime in regimes.items()}  # fmt: skip
    lines = [
        {
            "name": f"{model}_{value}",
            "base_cell": f"{model}_{base}",
            "model": model,
            "setting": "",
            "value": {key: value},
        }
        for model, regimes in series.items()
        for value in regimes
        if value != base
    ]
    values = sorted({value for regimes in series.values() for value in regimes})
    entry = {"keys": [key], "base": {key: base}, "values": [{key: value} for value in values], "lines": lines}
    return regime_line(entry, cells)


def test_where_a_regime_gives_way_to_another_is_said_and_models_of_one_path_stand_together():
    launch, compute = "launch-bound", "compute-bound"
    late = {256: launch, 512: launch, 768: compute, 1024: compute}
    series = {"a": dict.fromkeys(late, "transfer-bound"), "b": late, "c": late | {512: compute}, "d": late}
    assert told(series) == (
        "Regime: launch-bound up to 512, compute-bound from 768 on: b and d; "
        "launch-bound at 256, compute-bound from 512 on: c; transfer-bound throughout: a."
    )


def test_a_regime_in_between_and_one_that_comes_back():
    path = {1: "launch-bound", 2: "balanced", 4: "balanced", 8: "compute-bound", 16: "balanced"}
    said = "launch-bound at 1, balanced from 2 to 4, compute-bound at 8, balanced at 16: a."
    assert told({"a": path}, "batch_size", base=4) == f"Regime: {said}"


def test_nothing_is_said_where_nothing_changes_nothing_was_traced_or_the_values_have_no_order():
    assert told({"a": {256: "balanced", 512: "balanced"}}) == ""
    assert told({"a": {256: None, 512: None}}) == "" and told({"a": {256: None, 512: "balanced"}}) == ""
    assert told({"a": {False: "launch-bound", True: "compute-bound"}}, "cuda_graph", base=False) == ""


def test_of_many_models_a_few_are_named():
    series = {name: {256: "balanced", 512: "compute-bound"} for name in "abcde"}
    assert told(series) == "Regime: balanced at 256, compute-bound at 512: a, b, c and 2 more."


def test_company_of_two_kinds_is_two_series_of_one_base_alone():
    regimes = {("pipeline", 2): "balanced", ("pipeline", 4): "balanced", ("copies", 2): "balanced",
               ("copies", 4): "transfer-bound"}  # fmt: skip
    lines = [{"name": f"{load} {busy}", "base_cell": "alone", "model": "vit", "setting": "bf16",
              "value": {"concurrent_gpus": busy}} for load, busy in regimes]  # fmt: skip
    alone = {"concurrent_gpus": 1, "concurrent_load": "pipeline", "dtype": "bf16"}
    cells = {"alone": {"metrics": {"regime": "compute-bound"}, "settings": alone, "model": {"name": "vit", "depth": 8}}}
    for (load, busy), regime in regimes.items():
        settings = alone | {"concurrent_gpus": busy, "concurrent_load": load}
        cells[f"{load} {busy}"] = cells["alone"] | {"metrics": {"regime": regime}, "settings": settings}
    entry = {"keys": ["concurrent_gpus"], "base": {"concurrent_gpus": 1}, "lines": lines,
             "values": [{"concurrent_gpus": busy} for busy in (1, 2, 4)]}  # fmt: skip
    for turn in (1, -1):
        assert set(regime_line(entry | {"lines": lines[::turn]}, cells)[len("Regime: ") : -1].split("; ")) == {
            "compute-bound at 1, balanced from 2 on: vit bf16 concurrent_load pipeline",
            "compute-bound at 1, balanced at 2, transfer-bound at 4: vit bf16 concurrent_load copies",
        }
