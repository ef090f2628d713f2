"""Every picture is well-formed, says in words what it shows, and keeps what is hostile as text."""

import copy
import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from bench.legacy.aggregate import alone_gb_s
from bench.report.plots.pipeline import perturbation_pictures, representatives, stage_pictures, stage_shares
from bench.report.plots.placement import bandwidth_pictures, latency_pictures, penalty_pictures, throughput_pictures
from bench.report.plots.style import draw_interval
from bench.report.plots.sweeps import axis_picture, scaling_pictures, series
from bench.report.text import answers
from bench.units import rate as rate_told
from tests.run_directories import build_run_directory

SVG = "{http://www.w3.org/2000/svg}"
FAMILIES = {
    "throughput": throughput_pictures,
    "stages": stage_pictures,
    "latency": latency_pictures,
    "bandwidth": lambda cells: bandwidth_pictures(cells, []),
    "perturbation": perturbation_pictures,
}
HOSTILE = '</title><script>alert("1")</script>$\\frac{1}$ & "quoted"'


def parsed(picture):
    text = picture.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return ElementTree.fromstring(text)


@pytest.fixture(scope="module")
def scaling_cells(tmp_path_factory):
    from bench.legacy.build import build_results
    from bench.legacy.load import load

    path = tmp_path_factory.mktemp("scaling") / "run"
    build_run_directory(path, "model_scaling_study", {"repeats": 3})
    return build_results(load(path), "test")["cells"]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_pictures_are_svg_with_words_and_links(family, numa_results):
    pictures = family(numa_results["cells"])
    assert pictures
    for picture in pictures:
        root = parsed(picture)
        assert root.get("role") == "img"
        assert root.get("aria-label") == picture.alt == root.find(f"{SVG}title").text
        links = {link.get("{http://www.w3.org/1999/xlink}href") for link in root.iter(f"{SVG}a")}
        assert links and all(link.startswith("#runs-pipeline_gpu") for link in links)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_nothing_measured_draws_nothing(family, numa_results):
    empty = {"throughput_samples_s": None, "throughput_runs": [], "latency_us": None, "metrics": None,
             "solo_us": None, "perturbation": None}  # fmt: skip
    assert family([cell | empty for cell in numa_results["cells"]]) == []


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_hostile_names_stay_text(family, numa_results):
    cells = [cell | {"name": HOSTILE, "model": cell["model"] | {"name": HOSTILE}} for cell in numa_results["cells"][:2]]
    for picture in family(cells):
        root = parsed(picture)
        assert not list(root.iter(f"{SVG}script"))
        assert len(list(root)) > 1


def test_ids_of_different_pictures_do_not_meet(numa_results):
    seen = set()
    for family in FAMILIES.values():
        for picture in family(numa_results["cells"]):
            ids = {element.get("id") for element in parsed(picture).iter() if element.get("id")}
            assert not ids & seen
            seen |= ids


def test_shares_of_stages_are_the_whole_window(numa_results):
    for cell in numa_results["cells"]:
        if cell["metrics"]:
            assert sum(stage_shares(cell["metrics"]).values()) == pytest.approx(1.0)


def test_the_ceiling_is_the_copy_alone(numa_results):
    assert alone_gb_s(numa_results["cells"][0], "h2d") == pytest.approx(54.0)


def test_penalty_is_drawn_for_models_that_compute(numa_results):
    (picture,) = penalty_pictures(numa_results["cells"], answers(numa_results))
    assert "GPU 0 on node 2: vit0x0x0 30 %" in picture.alt
    only_copies = [entry for entry in numa_results["penalties"] if entry["model"] == "vit0x0x0"]
    assert penalty_pictures(numa_results["cells"], answers(numa_results | {"penalties": only_copies})) == []


def test_penalties_of_other_settings_are_lines_of_their_own(placed_results):
    (picture,) = penalty_pictures(placed_results["cells"], answers(placed_results))
    assert "GPU 0 on node 1: vit0x0x0 30 %" in picture.alt
    assert "GPU 0 on node 1, graph: vit0x0x0 graph 30 %" in picture.alt


def test_series_of_the_scaling_study(scaling_cells):
    (depths,) = series(scaling_cells, "depth").values()
    (dims,) = series(scaling_cells, "dim").values()
    # vit32x6x512 is listed twice and measured twice: both series have both.
    assert [cell["model"]["depth"] for cell in depths] == [2, 4, 6, 6, 8, 12]
    assert [cell["model"]["dim"] for cell in dims] == [256, 512, 512, 768, 1024]
    assert [picture.title for picture in scaling_pictures(scaling_cells)] == ["By layers", "By width"]


def test_other_studies_have_no_series(numa_results):
    assert scaling_pictures(numa_results["cells"]) == []


def test_timelines_stand_for_regimes_on_one_gpu(numa_results):
    chosen = representatives(numa_results["cells"])
    assert {cell["gpu"] for cell in chosen} == {0}
    assert len({cell["metrics"]["regime"] for cell in chosen}) > 1
    assert representatives([]) == []


def test_a_cell_of_few_batches_has_a_shorter_line_and_one_way_none(numa_results):
    first, second, third = (dict(cell) for cell in numa_results["cells"][:3])
    ends = [None if step in (1, 99) else float(step) for step in range(101)]
    first["latency_us"] = first["latency_us"] | {"p99": None, "quantiles": ends}
    second["latency_us"] = second["latency_us"] | {"quantiles": [None] * 101}
    pictures = latency_pictures([first, second, third])
    alts = " ".join(picture.alt for picture in pictures)
    assert first["model"]["name"] in alts and second["model"]["name"] not in alts


def test_a_wild_interval_pushes_no_number_out_of_the_picture(scaling_cells):
    cells = [dict(cell) for cell in scaling_cells]
    rate = cells[0]["throughput_samples_s"]
    cells[0]["throughput_runs"] = [rate / 3, 3 * rate]
    (picture,) = throughput_pictures(cells)
    width = float(parsed(picture).get("viewBox").split()[2])
    (number, *_) = [text for text in parsed(picture).iter(f"{SVG}text") if text.text == rate_told(rate)]
    assert "text-anchor: end" in number.get("style")
    assert width - 20 < float(re.search(r"rotate\(\S+ ([\d.]+)", number.get("transform"))[1]) < width


def drawn(interval, **place):
    """(x, y) of the line, then marker and (x, y) of each arrow head."""
    axes = Figure().add_subplot()
    draw_interval(axes, interval, 5, (0, 10), **place)
    line, *heads = axes.lines
    return [*zip(*line.get_data(), strict=True)], [(head.get_marker(), *map(tuple, head.get_data())) for head in heads]


def test_an_interval_that_is_cut_has_an_arrow_head_there():
    assert drawn((2, 8), upright=False) == ([(2, 5), (8, 5)], [])
    assert drawn((2, 30), upright=False) == ([(2, 5), (10, 5)], [(">", (10,), (5,))])
    assert drawn((-1, 30), upright=True) == ([(5, 0), (5, 10)], [("v", (5,), (0,)), ("^", (5,), (10,))])


def test_runs_are_dots_that_can_be_seen_over_the_line_and_the_bar(scaling_cells):
    (picture,) = throughput_pictures(scaling_cells)
    dots = [use for use in parsed(picture).iter(f"{SVG}use") if "fill: #ffffff" in use.get("style", "")]
    assert len(dots) == sum(len(cell["throughput_runs"]) for cell in scaling_cells)


def test_a_mark_names_its_cell_and_its_link_stays_in_the_tab(numa_results):
    for family in (throughput_pictures, perturbation_pictures):
        links = [link for picture in family(numa_results["cells"]) for link in parsed(picture).iter(f"{SVG}a")]
        named = [link.find(f"{SVG}title").text for link in links]
        assert named == [link.get("{http://www.w3.org/1999/xlink}href").removeprefix("#runs-") for link in links]
        assert not any(link.get("target") for link in links)


def test_a_copy_faster_than_the_ceiling_is_drawn_whole(numa_results):
    cells = [dict(cell) for cell in numa_results["cells"] if cell["gpu"] == 0]
    fast = copy.deepcopy(next(cell for cell in cells if cell["metrics"]))
    fast["metrics"]["h2d"]["bandwidth_gb_s"] *= 1.5
    (picture,) = bandwidth_pictures([fast if cell["name"] == fast["name"] else cell for cell in cells], [])
    assert not clipped(picture)


def test_a_cell_without_copies_in_one_direction_is_drawn_without_them(numa_results):
    cells = [copy.deepcopy(cell) for cell in numa_results["cells"] if cell["gpu"] == 0]
    one = cells[0]
    one["metrics"]["d2h"]["bandwidth_gb_s"] = one["solo_us"]["d2h"] = None
    assert len(bandwidth_pictures(cells, [])) == 1


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
    lines = [{"name": f"cell{at}", "base_cell": "base", "model": "vit", "value": {"dtype": f"type{at}"},
              "effect": effect, "interval": None} for at, effect in enumerate(effects)]  # fmt: skip
    values = [line["value"] for line in lines]
    entry = {"axis": "dtype", "keys": ["dtype"], "base": {"dtype": "fp32"}, "values": [{"dtype": "fp32"}, *values],
             "lines": lines, "summary": []}  # fmt: skip
    ticks = [text.text for text in parsed(axis_picture(entry)).iter(f"{SVG}text") if text.text.startswith("× ")]
    assert len(ticks) >= 3 and "× 1" in ticks
