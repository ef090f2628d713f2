"""Every picture is well-formed, has a text of what it shows, and keeps hostile names as text."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from msgspec.structs import replace

from bench.analysis.links import isolated_gb_s
from bench.analysis.load import load
from bench.report.build import build_results
from bench.report.plots.pipeline import perturbation_pictures, representatives, stage_pictures, stage_shares
from bench.report.plots.placement import bandwidth_pictures, latency_pictures, penalty_pictures, throughput_pictures
from bench.report.plots.style import draw_interval
from bench.report.plots.sweeps import axis_picture, model_series, scaling_pictures
from bench.report.text.answer import answers
from bench.report.view import View
from bench.units import rate
from tests.report import made
from tests.report.made import changed, with_cell
from tests.run_directories import build_run_directory

SVG = "{http://www.w3.org/2000/svg}"
FAMILIES = {
    "throughput": throughput_pictures,
    "stages": stage_pictures,
    "latency": latency_pictures,
    "bandwidth": bandwidth_pictures,
    "perturbation": perturbation_pictures,
}
HOSTILE = '</title><script>alert("1")</script>$\\frac{1}$ & "quoted"'


def parsed(picture):
    text = picture.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return ElementTree.fromstring(text)


@pytest.fixture(scope="module")
def scaling_view(tmp_path_factory):
    path = tmp_path_factory.mktemp("scaling") / "run"
    build_run_directory(path, "model_scaling_study", {"repeats": 3})
    return View(build_results(load(path), "test"))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_pictures_are_svg_with_text_and_links(family, numa_view):
    pictures = family(numa_view)
    assert pictures
    for picture in pictures:
        root = parsed(picture)
        assert root.get("role") == "group"  # of links: an image would have no parts
        assert root.get("aria-label") == picture.alt == root.find(f"{SVG}title").text
        links = {link.get("{http://www.w3.org/1999/xlink}href") for link in root.iter(f"{SVG}a")}
        assert links and all(link.startswith("#runs-pipeline_gpu") for link in links)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_draws_nothing_when_nothing_was_measured(family, numa_view):
    empty = {"throughput_samples_s": None, "throughput_runs": (), "latency_us": None, "metrics": None,
             "solo_us": None, "perturbation": None}  # fmt: skip
    assert family(changed(numa_view, cells=tuple(replace(cell, **empty) for cell in numa_view.results.cells))) == []


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_hostile_names_stay_text(family, numa_view):
    cells = [replace(cell, name=f"{at}{HOSTILE}") for at, cell in enumerate(numa_view.results.cells[:2])]
    for picture in family(changed(numa_view, cells=tuple(cells))):
        root = parsed(picture)
        assert not list(root.iter(f"{SVG}script"))
        assert len(list(root)) > 1


def test_hostile_labels_stay_text():
    line = made.line("a", {"dtype": "bf16"}, 0.5, "FASTER", model=HOSTILE)
    picture = axis_picture(made.axis(line, base={"dtype": "fp32"}))
    assert not list(parsed(picture).iter(f"{SVG}script")) and HOSTILE in picture.alt


def test_ids_of_different_pictures_differ(numa_view):
    seen = set()
    for family in FAMILIES.values():
        for picture in family(numa_view):
            ids = {element.get("id") for element in parsed(picture).iter() if element.get("id")}
            assert not ids & seen
            seen |= ids


def test_shares_of_stages_add_up_to_the_window(numa_view):
    for cell in numa_view.results.cells:
        if cell.metrics:
            assert sum(stage_shares(cell.metrics).values()) == pytest.approx(1.0)


def test_the_ceiling_is_the_copy_in_isolation(numa_view):
    assert isolated_gb_s(numa_view.results.cells[0], "h2d") == pytest.approx(54.0)


def test_penalty_is_drawn_for_models_that_compute(numa_view):
    (picture,) = penalty_pictures(numa_view, answers(numa_view))
    assert "GPU 0 on node 2: vit0x0x0 30 %" in picture.alt
    only_copies = tuple(entry for entry in numa_view.results.penalties if entry.model == "vit0x0x0")
    view = changed(numa_view, penalties=only_copies)
    assert penalty_pictures(view, answers(view)) == []


def test_penalties_of_other_settings_are_separate_lines(placed_view):
    (picture,) = penalty_pictures(placed_view, answers(placed_view))
    assert "GPU 0 on node 1: vit0x0x0 30 %" in picture.alt
    assert "GPU 0 on node 1, graph: vit0x0x0 graph 30 %" in picture.alt


def test_series_of_the_scaling_study(scaling_view):
    ((depths,),) = model_series(scaling_view, "depth").values()
    ((dims,),) = model_series(scaling_view, "dim").values()
    # vit32x6x512 is listed twice and measured twice: both series have both.
    assert [cell.model.depth for cell in depths] == [2, 4, 6, 6, 8, 12]
    assert [cell.model.dim for cell in dims] == [256, 512, 512, 768, 1024]
    assert [picture.title for picture in scaling_pictures(scaling_view)] == ["By layers", "By width"]


def test_other_studies_have_no_series(numa_view):
    assert scaling_pictures(numa_view) == []


def test_timelines_show_each_regime_on_one_gpu(numa_view):
    chosen = representatives(numa_view)
    assert {cell.gpu for cell in chosen} == {0}
    assert len({cell.metrics.regime for cell in chosen}) > 1
    assert representatives(changed(numa_view, cells=())) == []


def test_a_cell_of_few_batches_has_a_shorter_line_or_none(numa_view):
    first, second, third = numa_view.results.cells[:3]
    ends = [None if step in (1, 99) else float(step) for step in range(101)]
    cells = (
        replace(first, latency_us=replace(first.latency_us, p99=None, quantiles=ends)),
        replace(second, latency_us=replace(second.latency_us, quantiles=[None] * 101)),
        third,
    )
    alts = " ".join(picture.alt for picture in latency_pictures(changed(numa_view, cells=cells)))
    assert first.model.name in alts and second.model.name not in alts


def test_a_wide_interval_pushes_no_number_out_of_the_picture(scaling_view):
    first = scaling_view.results.cells[0]
    throughput = first.throughput_samples_s
    view = with_cell(scaling_view, first.name, throughput_runs=(throughput / 3, 3 * throughput))
    (picture,) = throughput_pictures(view)
    width = float(parsed(picture).get("viewBox").split()[2])
    (number, *_) = [text for text in parsed(picture).iter(f"{SVG}text") if text.text == rate(throughput)]
    assert "text-anchor: end" in number.get("style")
    assert width - 20 < float(re.search(r"rotate\(\S+ ([\d.]+)", number.get("transform"))[1]) < width


def drawn(interval, **place):
    """(x, y) of the line, then marker and (x, y) of each arrow head."""
    axes = Figure().add_subplot()
    draw_interval(axes, interval, 5, (0, 10), **place)
    line, *heads = axes.lines
    return [*zip(*line.get_data(), strict=True)], [(head.get_marker(), *map(tuple, head.get_data())) for head in heads]


def test_a_cut_interval_has_an_arrow_head():
    assert drawn((2, 8), upright=False) == ([(2, 5), (8, 5)], [])
    assert drawn((2, 30), upright=False) == ([(2, 5), (10, 5)], [(">", (10,), (5,))])
    assert drawn((-1, 30), upright=True) == ([(5, 0), (5, 10)], [("v", (5,), (0,)), ("^", (5,), (10,))])


def test_runs_are_dots_above_the_line_and_the_bar(scaling_view):
    (picture,) = throughput_pictures(scaling_view)
    dots = [use for use in parsed(picture).iter(f"{SVG}use") if "fill: #ffffff" in use.get("style", "")]
    assert len(dots) == sum(len(cell.throughput_runs) for cell in scaling_view.results.cells)


def test_a_mark_names_its_cell_and_its_link_stays_in_the_tab(numa_view):
    for family in (throughput_pictures, perturbation_pictures):
        links = [link for picture in family(numa_view) for link in parsed(picture).iter(f"{SVG}a")]
        named = [link.find(f"{SVG}title").text for link in links]
        assert named == [link.get("{http://www.w3.org/1999/xlink}href").removeprefix("#runs-") for link in links]
        assert not any(link.get("target") for link in links)


def on_gpu_0(view, change):
    """Its cells, the first traced one changed."""
    first, *others = [cell for cell in view.results.cells if cell.gpu == 0 and cell.metrics]
    return changed(view, cells=(change(first), *others))


def test_a_copy_faster_than_the_ceiling_is_drawn_whole(numa_view):
    def fast(cell):
        h2d = replace(cell.metrics.h2d, bandwidth_gb_s=1.5 * cell.metrics.h2d.bandwidth_gb_s)
        return replace(cell, metrics=replace(cell.metrics, h2d=h2d))

    (picture,) = bandwidth_pictures(on_gpu_0(numa_view, fast))
    assert not clipped(picture)


def test_a_cell_without_copies_in_one_direction_is_drawn(numa_view):
    def without_d2h(cell):
        d2h = replace(cell.metrics.d2h, bandwidth_gb_s=None)
        return replace(cell, metrics=replace(cell.metrics, d2h=d2h), solo_us=replace(cell.solo_us, d2h=None))

    assert len(bandwidth_pictures(on_gpu_0(numa_view, without_d2h))) == 1


def clipped(picture):
    """Marks outside of the area that they are clipped to, widths of marks left aside."""
    root = parsed(picture)
    areas = {path.get("id"): path.find(f"{SVG}rect") for path in root.iter(f"{SVG}clipPath")}
    found = []
    for group in root.iter(f"{SVG}g"):
        area = areas.get((group.get("clip-path") or "").removeprefix("url(#").removesuffix(")"))
        for use in group.iter(f"{SVG}use") if area is not None else ():
            left, width = float(area.get("x")), float(area.get("width"))
            if not left <= float(use.get("x")) <= left + width:
                found.append(use)
    return found


@pytest.mark.parametrize("effects", [(-0.4, 0.4), (-0.75, -0.2), (0.1, 0.9), (0.5, 3.5), (-0.98, 50)])
def test_a_size_can_be_read_off_the_scale_of_an_axis(effects):
    lines = [made.line(f"cell{at}", {"dtype": f"type{at}"}, effect) for at, effect in enumerate(effects)]
    entry = made.axis(*lines, base={"dtype": "fp32"})
    ticks = [text.text for text in parsed(axis_picture(entry)).iter(f"{SVG}text") if text.text.startswith("× ")]
    assert len(ticks) >= 3 and "× 1" in ticks
