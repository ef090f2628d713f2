import json

from click.testing import CliRunner

from bench.workload.devices import CpuDevice
from tests.benchmarks.link import Link, main, measure_link


def test_ceiling_of_a_pipeline_without_compute():
    link = Link(batch_bytes=6_021_120, h2d_gb_s=55.0, d2h_gb_s=55.0, both_gb_s=48.7)
    assert round(link.samples_s(10), -2) == 80_900


def test_loop_runs_on_the_cpu_device_too():
    link = measure_link(CpuDevice(), batch_bytes=65_536, pool_bytes=1 << 20, burst_s=0.001)
    assert link.batch_bytes == 65_536
    assert min(link.h2d_gb_s, link.d2h_gb_s, link.both_gb_s) > 0


def test_command_prints_json():
    shown = CliRunner().invoke(main, ["--device", "cpu", "--batch-bytes", "65536", "--pool-mb", "1"])
    assert json.loads(shown.output)["batch_bytes"] == 65_536
