from bench.report.text.axes import regime_line
from tests.report import made


def text(series, key="image_size", base=256):
    """series: model -> {value: regime}."""
    cells = {
        f"{model}_{value}": made.cell(f"{model}_{value}", metrics=regime and made.metrics(regime))
        for model, regimes in series.items()
        for value, regime in regimes.items()
    }
    lines = [
        made.line(f"{model}_{value}", {key: value}, base_cell=f"{model}_{base}", model=model)
        for model, regimes in series.items()
        for value in regimes
        if value != base
    ]
    values = sorted({value for regimes in series.values() for value in regimes})
    return regime_line(made.axis(*lines, base={key: base}, values=[{key: value} for value in values]), cells)


def test_names_where_a_regime_changes_and_groups_models():
    launch, compute = "launch-bound", "compute-bound"
    late = {256: launch, 512: launch, 768: compute, 1024: compute}
    series = {"a": dict.fromkeys(late, "transfer-bound"), "b": late, "c": late | {512: compute}, "d": late}
    assert text(series) == (
        "Regime: launch-bound up to 512, compute-bound from 768 on: b and d; "
        "launch-bound at 256, compute-bound from 512 on: c; transfer-bound throughout: a."
    )


def test_a_regime_in_between_and_one_that_returns():
    path = {1: "launch-bound", 2: "balanced", 4: "balanced", 8: "compute-bound", 16: "balanced"}
    expected = "launch-bound at 1, balanced from 2 to 4, compute-bound at 8, balanced at 16: a."
    assert text({"a": path}, "batch_size", base=4) == f"Regime: {expected}"


def test_is_empty_without_a_change_a_trace_or_an_order_of_values():
    assert text({"a": {256: "balanced", 512: "balanced"}}) == ""
    assert text({"a": {256: None, 512: None}}) == "" and text({"a": {256: None, 512: "balanced"}}) == ""
    assert text({"a": {False: "launch-bound", True: "compute-bound"}}, "cuda_graph", base=False) == ""


def test_names_a_few_of_many_models():
    series = {name: {256: "balanced", 512: "compute-bound"} for name in "abcde"}
    assert text(series) == "Regime: balanced at 256, compute-bound at 512: a, b, c and 2 more."


def test_two_kinds_of_load_are_two_series_of_one_isolated_base():
    regimes = {("pipeline", 2): "balanced", ("pipeline", 4): "balanced", ("copies", 2): "balanced",
               ("copies", 4): "transfer-bound"}  # fmt: skip
    isolated = {"dtype": "bf16"}
    cells = {"isolated": made.cell("isolated", metrics=made.metrics("compute-bound"), differing=isolated)}
    lines = []
    for (load, busy), regime in regimes.items():
        name = f"{load} {busy}"
        settings = isolated | {"concurrent_gpus": busy, "concurrent_load": load}
        cells[name] = made.cell(name, metrics=made.metrics(regime), differing=settings)
        lines.append(
            made.line(name, {"concurrent_gpus": busy}, base_cell="isolated", model="vit", settings={"dtype": "bf16"})
        )
    values = [{"concurrent_gpus": busy} for busy in (1, 2, 4)]
    for turn in (1, -1):
        entry = made.axis(*lines[::turn], base={"concurrent_gpus": 1}, values=values)
        assert set(regime_line(entry, cells)[len("Regime: ") : -1].split("; ")) == {
            "compute-bound at 1, balanced from 2 on: vit bf16 concurrent_load pipeline",
            "compute-bound at 1, balanced at 2, transfer-bound at 4: vit bf16 concurrent_load copies",
        }
