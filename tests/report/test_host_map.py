from bench.records.base import convert
from bench.records.host import Topology
from bench.report.host_map import host_map
from tests.report.made import results
from tests.run_directories import topology_json


def drawn(**topology):
    return host_map(results(topology=convert(topology_json(**topology), Topology)))


def test_gpus_are_under_the_reported_node():
    found = drawn()
    left = {box.title: box.x for box in found.nodes}
    gpus = {box.title: box for box in found.gpus}
    for gpu, node in (("GPU 0", "node 0"), ("GPU 1", "node 0"), ("GPU 2", "node 2"), ("GPU 3", "node 2")):
        assert left[node] <= gpus[gpu].x <= left[node] + 172
    assert len(found.lines) == 4 and not any(line.measured for line in found.lines)


def test_nothing_overlaps_and_all_is_inside():
    found = drawn(gpus=8, near=(0, 0, 0, 0, 1, 1, None, None), nodes=2)
    boxes = [*found.nodes, *found.gpus]
    assert all(box.x + box.width <= found.width and box.y + box.height <= found.height for box in boxes)
    corners = [(box.x, box.y) for box in boxes]
    assert len(set(corners)) == len(boxes)


def test_a_gpu_of_unknown_place_has_no_line():
    found = drawn(gpus=1, near=(None,))
    assert found.gpus[0].text == "nearest unknown"
    assert found.lines == ()
    assert "GPU 0: reported nearest unknown." in found.alt


def test_distances_are_a_square(numa_view):
    found = host_map(numa_view.results)
    assert [len(row) for _, row in found.distances] == [3, 3, 3]
    assert found.distances[0][1] == ("10", "12", "21")


def test_measured_and_reported_nearest_are_both_drawn(numa_view):
    found = host_map(numa_view.results)
    measured = [line for line in found.lines if line.measured]
    assert len(measured) == sum("measured" in box.text for box in found.gpus)


def test_returns_none_without_a_topology():
    assert host_map(results()) is None
