from bench.report.host_map import host_map
from tests.run_directories import topology_json


def results(topology, cells=(), device="cuda"):
    return {"topology": topology, "cells": list(cells), "device": device}


def test_gpus_stand_under_the_node_that_is_reported():
    found = host_map(results(topology_json()))
    left = {box.title: box.x for box in found.nodes}
    gpus = {box.title: box for box in found.gpus}
    for gpu, node in (("GPU 0", "node 0"), ("GPU 1", "node 0"), ("GPU 2", "node 2"), ("GPU 3", "node 2")):
        assert left[node] <= gpus[gpu].x <= left[node] + 172
    assert len(found.lines) == 4 and not any(line.measured for line in found.lines)


def test_nothing_overlaps_and_all_is_inside():
    found = host_map(results(topology_json(gpus=8, near=(0, 0, 0, 0, 1, 1, None, None), nodes=2)))
    boxes = [*found.nodes, *found.gpus]
    assert all(box.x + box.width <= found.width and box.y + box.height <= found.height for box in boxes)
    corners = [(box.x, box.y) for box in boxes]
    assert len(set(corners)) == len(boxes)


def test_a_gpu_of_unknown_place_has_no_line():
    found = host_map(results(topology_json(gpus=1, near=(None,))))
    assert found.gpus[0].text == "nearest not known"
    assert found.lines == ()
    assert "GPU 0: reported nearest not known." in found.alt


def test_distances_are_a_square(numa_results):
    found = host_map(numa_results)
    assert [len(row) for _, row in found.distances] == [3, 3, 3]
    assert found.distances[0][1] == ("10", "12", "21")


def test_measured_and_reported_nearest_are_both_drawn(numa_results):
    measured = [line for line in host_map(numa_results).lines if line.measured]
    assert len(measured) == sum("measured" in box.text for box in host_map(numa_results).gpus)


def test_no_topology_no_drawing():
    assert host_map(results({})) is None
