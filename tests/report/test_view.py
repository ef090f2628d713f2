from bench.records.results import LinkEntry
from bench.report.view import View, link_device, settings_label
from tests.report.made import cell, changed, results


def view(*cells, **changes):
    return View(results(cells, **changes))


def test_a_series_is_the_model_its_settings_and_its_occurrence():
    made = view()
    assert made.series(cell()) == "vit32x6x512"
    assert made.series(cell(differing={"dtype": "bf16"}, occurrence=1)) == "vit32x6x512 bf16 again"
    assert made.series(cell(occurrence=2)) == "vit32x6x512 again2"


def test_settings_are_called_as_in_the_name_of_a_cell():
    values = {"heads": 12, "batch_size": 32, "cuda_graph": True, "compile_model": "default", "depth": 4}
    assert settings_label(values) == "heads12 bs32 graph compiled"
    assert settings_label({}) == ""


def test_gpu_numbers_are_only_labels_on_the_cpu_device():
    on_cpu = view(device="cpu")
    assert on_cpu.device(cell()) == "CPU"
    assert on_cpu.device(cell(gpu=5)) == "CPU, label 5"
    assert view().device(cell(gpu=5)) == "GPU 5"
    link = LinkEntry(name="a", gpu=1, cpu_node=0, mem_node=0, status="ok", reason="", device="cpu")
    assert link_device(link) == "CPU"


def test_whole_nodes_come_before_mixed_placements():
    placements = [(2, 0), (2, 2), (0, 0), (0, 2)]
    made = view(*(cell(f"c{at}", cpu_node=cpu, mem_node=mem) for at, (cpu, mem) in enumerate(placements)))
    assert made.places == [(0, 0), (2, 2), (0, 2), (2, 0)]


def test_one_cell_per_model_is_one_panel():
    one = [cell("a"), cell("b", "vit0x0x0")]
    assert [(title, labels) for title, _, labels in view(*one).panels(one)] == [("", ["vit32x6x512", "vit0x0x0"])]
    two = [*one, cell("c", "vit0x0x0", node=2)]
    assert [title for title, _, _ in view(*two).panels(two)] == ["vit32x6x512", "vit0x0x0"]
    assert view().panels([]) == []


def test_a_study_is_untraced_if_timed_and_without_any_trace(numa_view):
    assert not numa_view.is_untraced
    timed = cell(throughput_samples_s=1.0)
    assert view(timed, timed).is_untraced
    assert not view(cell()).is_untraced
    traced = next(one for one in numa_view.results.cells if one.metrics)
    assert not changed(view(timed), cells=(timed, traced)).is_untraced
