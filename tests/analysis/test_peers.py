import pytest

from bench.analysis.aggregate import carried_gb_s, peers_of_cell, peers_of_run

RESULT = {"throughput_samples_s": 1000.0, "bytes_in_per_batch": 6_000_000, "bytes_out_per_batch": 250_000}


def peer(gpu=1, result=RESULT, **more):
    return {"gpu": gpu, "cpu_node": 0, "mem_node": 0, "status": "ok", "result": result} | more


def test_carried_is_bytes_times_batches_a_second():
    assert carried_gb_s(1000.0, {"h2d": 6_000_000, "d2h": 250_000}, 10) == {"h2d": 0.6, "d2h": 0.025}
    assert carried_gb_s(None, {"h2d": 1, "d2h": 1}, 10) == {"h2d": None, "d2h": None}


def test_each_peer_of_a_run_has_its_figures():
    (told,) = peers_of_run({"peers": [peer()]}, 10)
    assert (told["gpu"], told["status"], told["throughput_samples_s"]) == (1, "ok", 1000.0)
    assert (told["h2d_gb_s"], told["d2h_gb_s"]) == (0.6, 0.025)
    assert peers_of_run({}, 10) == []


def test_over_runs_it_is_the_geometric_mean_and_failures_are_counted():
    runs = [{"peers": [peer(result=RESULT | {"throughput_samples_s": rate})]} for rate in (400.0, 900.0)]
    runs.append({"peers": [peer(result=None, status="crashed")]})
    (told,) = peers_of_cell(runs, 10)
    assert told["throughput_samples_s"] == pytest.approx(600.0)
    assert told["h2d_gb_s"] == pytest.approx(0.36)
    assert (told["runs"], told["failed"]) == (2, 1)
