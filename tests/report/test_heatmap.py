import pytest
from msgspec.structs import replace

from bench.records.results import Verdict
from bench.records.run import Outcome
from bench.report.host_map import FULL_LOSS, heatmaps, shade
from tests.report.made import changed


def test_each_model_has_a_map_and_the_far_node_is_darker(numa_view):
    found = heatmaps(numa_view)
    assert [one.model for one in found][:2] == ["vit0x0x0", "vit32x2x128"]
    device, (near, far) = found[0].rows[0]
    assert (device, near.note, near.local, far.local) == ("GPU 0", "", True, False)
    assert near.colour == "#FFFFFF" and far.colour != "#FFFFFF"
    assert far.note.endswith(" % slower")


def test_one_node_has_no_map(quick_run, view_of):
    assert heatmaps(view_of(quick_run)) == []


def test_a_cell_without_a_number_shows_its_outcome(numa_view):
    cells = tuple(
        replace(cell, throughput_samples_s=None, outcome=Outcome.BIND_FAILED) for cell in numa_view.results.cells
    )
    assert heatmaps(changed(numa_view, cells=cells))[0].rows[0][1][0].text == "bind failed"


def test_shades_get_darker_and_end():
    def light(colour):
        return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5))

    steps = [light(shade(loss)) for loss in (0, 0.1, 0.2, 0.3, FULL_LOSS)]
    assert steps == sorted(steps, reverse=True)
    assert shade(1.0) == shade(FULL_LOSS)
    assert shade(0.0) == "#FFFFFF"


@pytest.mark.parametrize("loss", [-1, -0.2, 0, 0.1, 0.2, 0.3, 0.4, 1])
def test_dark_text_is_readable_on_every_shade(loss):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    # WCAG 2.1, contrast ratio: 4.5 for text; #3f4a54 is the palest ink on a tile.
    assert (luminance(shade(loss)) + 0.05) / (luminance("#3f4a54") + 0.05) >= 4.5


def test_a_loss_that_may_be_noise_has_no_colour_and_a_note(numa_view):
    """Launch-bound models: the local node comes out slower on some GPUs, and none of it is decided."""
    by_model = {one.model: one for one in heatmaps(numa_view)}
    for _, tiles in by_model["vit32x4x256"].rows:
        near, far = sorted(tiles, key=lambda tile: not tile.local)
        assert (near.note, near.colour, far.colour) == ("", "#FFFFFF", "#FFFFFF")
        assert far.note in ("undecided", "probably faster")
    notes = {tile.note for _, tiles in by_model["vit16x12x1024"].rows for tile in tiles}
    assert notes <= {"", "same"} and "same" in notes


def test_the_loss_of_a_single_pair_is_shown(numa_view):
    entries = tuple(replace(entry, interval=None, verdict=Verdict.UNDECIDED) for entry in numa_view.results.penalties)
    far = heatmaps(changed(numa_view, penalties=entries))[0].rows[0][1][1]
    assert far.note.endswith(" % slower") and far.colour != "#FFFFFF"
