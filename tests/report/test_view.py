from bench.report.labels import device_label, panels, placements

from bench.legacy.axes import series_label


def cell(name, model="vit32x6x512", cpu=0, mem=0, device="cuda"):
    return {"name": name, "model": {"name": model}, "cpu_node": cpu, "mem_node": mem, "gpu": 0,
            "settings": {"device": device}}  # fmt: skip


def test_suffixes_that_are_not_the_node_are_part_of_the_series():
    assert series_label(cell("pipeline_gpu0_numa0_vit32x6x512")) == "vit32x6x512"
    assert series_label(cell("pipeline_gpu0_numa0_vit32x6x512_cpu2_bf16_again")) == "vit32x6x512 bf16 again"


def test_cells_of_the_cpu_device_with_other_gpu_numbers_have_labels_of_their_own():
    assert device_label(cell("a", device="cpu")) == "CPU"
    assert device_label(cell("a", device="cpu") | {"gpu": 5}) == "CPU, label 5"
    assert device_label(cell("a") | {"gpu": 5}) == "GPU 5"


def test_a_name_of_another_kind_is_kept_whole():
    assert series_label(cell("odd")) == "odd"


def test_whole_nodes_come_before_mixed_placements():
    cells = [cell("a", cpu=2, mem=0), cell("b", cpu=2, mem=2), cell("c"), cell("d", cpu=0, mem=2)]
    assert placements(cells) == [(0, 0), (2, 2), (0, 2), (2, 0)]


def test_a_study_with_one_cell_a_model_is_one_panel():
    one = [cell("pipeline_gpu0_numa0_vit32x6x512"), cell("pipeline_gpu0_numa0_vit0x0x0", "vit0x0x0")]
    assert [(title, labels) for title, _, labels in panels(one)] == [("", ["vit32x6x512", "vit0x0x0"])]
    two = [*one, cell("pipeline_gpu0_numa2_vit0x0x0", "vit0x0x0", 2, 2)]
    assert [title for title, _, _ in panels(two)] == ["vit32x6x512", "vit0x0x0"]
    assert panels([]) == []
