import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bench.workload.devices import CpuDevice
from bench.workload.failures import RunFailure
from bench.workload.pipeline import no_beat
from bench.workload.preprocessing import MEAN, STD, Preparer, preprocess_cpus
from bench.workload.progress import PhaseTimes
from bench.workload.run import build_pipeline

from .cells import NO_COMPUTE, small_cell

LENGTH, AHEAD = 6, 3


class HeldCopies(CpuDevice):
    """A stub of a device whose copies end on request: event k is that of entry k."""

    def __init__(self) -> None:
        self.ended: list[threading.Event] = []

    def event(self, timing: bool) -> "HeldCopies.Event":
        self.ended.append(threading.Event())
        self.ended[-1].set()
        return HeldCopies.Event(self.ended[-1])

    class Event:
        def __init__(self, ended: threading.Event) -> None:
            self._ended = ended

        def record(self, stream: None) -> None:
            self._ended.clear()

        def synchronize(self) -> None:
            assert self._ended.wait(240)


@pytest.fixture
def device() -> HeldCopies:
    return HeldCopies()


@pytest.fixture
def preparer(device: HeldCopies) -> Iterator[Preparer]:
    made = Preparer(device, torch.zeros(LENGTH, 2, 3, 8, 8), AHEAD, None, seed=0)
    yield made
    for ended in device.ended:
        ended.set()
    made.close()


def eventually(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 240
    while not is_so() and time.monotonic() < end:
        time.sleep(0.001)
    return is_so()


def stays(is_so: Callable[[], bool], for_s: float = 0.05) -> bool:
    time.sleep(for_s)
    return is_so()


def written(preparer: Preparer) -> set[int]:
    """Entries that were prepared since they were last wiped."""
    return {entry for entry, batch in enumerate(preparer._ring) if batch.any()}


def test_batches_are_the_normalised_images(preparer):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    assert preparer.images.dtype == torch.uint8
    for image, batch in zip(preparer.images, preparer._ring, strict=True):
        torch.testing.assert_close(batch, (image / 255 - mean) / std)


def test_thread_is_no_further_ahead_than_the_queue(preparer):
    preparer._ring.zero_()
    preparer.resume(0)
    assert eventually(lambda: written(preparer) == {0, 1, 2})
    assert stays(lambda: written(preparer) == {0, 1, 2})
    preparer.take(0)
    assert eventually(lambda: written(preparer) == {0, 1, 2, 3})
    assert stays(lambda: written(preparer) == {0, 1, 2, 3})


def test_nothing_is_prepared_outside_of_a_window(preparer):
    preparer._ring.zero_()
    assert stays(lambda: not written(preparer))
    preparer.resume(0)
    assert eventually(lambda: written(preparer) == {0, 1, 2})
    preparer.pause()
    preparer.take(0)
    assert stays(lambda: written(preparer) == {0, 1, 2})
    preparer.fill()
    assert written(preparer) == {0, 1, 2, 3}


def test_entry_is_not_written_to_before_its_copy_ended(preparer, device):
    preparer.resume(0)
    for index in range(4):
        preparer.take(index)
        preparer.sent(index, None)
    preparer._ring.zero_()
    # Batch 6 goes where batch 0 is still being copied from.
    assert eventually(lambda: preparer._busy)
    assert stays(lambda: 0 not in written(preparer))
    device.ended[0].set()
    assert eventually(lambda: 0 in written(preparer))


def test_pipeline_waits_for_a_batch_that_is_not_ready(preparer, device):
    preparer.resume(0)
    for index in range(6):
        preparer.take(index)
        preparer.sent(index, None)
    taken = threading.Thread(target=preparer.take, args=(6,))
    taken.start()
    taken.join(0.05)
    assert taken.is_alive()
    device.ended[0].set()
    taken.join(240)
    assert not taken.is_alive()
    assert preparer.waited >= 1


def test_error_of_the_thread_is_an_error_of_the_run(preparer, monkeypatch):
    def fail(entry: int) -> None:
        raise ValueError("no such image")

    monkeypatch.setattr(preparer, "_prepare", fail)
    preparer.resume(0)
    with pytest.raises(ValueError, match="no such image"):
        preparer.take(0)


def test_thread_is_named_and_bound():
    cpu = min(os.sched_getaffinity(0))
    preparer = Preparer(CpuDevice(), torch.zeros(LENGTH, 2, 3, 8, 8), AHEAD, {cpu}, seed=0)
    preparer.fill()
    threads = Path("/proc/self/task").iterdir()
    [thread] = [int(task.name) for task in threads if (task / "comm").read_text().strip() == "preparing"]
    assert os.sched_getaffinity(thread) == {cpu}
    preparer.close()


def test_only_the_preprocessing_thread_uses_one_cpu():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    preparer = Preparer(CpuDevice(), torch.zeros(LENGTH, 2, 3, 8, 8), AHEAD, None, seed=0)
    try:
        assert torch.get_num_threads() == 3
    finally:
        preparer.close()
        torch.set_num_threads(before)


def test_forbidden_preprocess_cpus_are_not_runnable():
    preparer = Preparer(CpuDevice(), torch.zeros(LENGTH, 2, 3, 8, 8), AHEAD, {8191}, seed=0)
    with pytest.raises(RunFailure, match="may not run on CPUs 8191") as raised:
        preparer.fill()
    assert raised.value.status == "not_runnable"


def test_missing_preprocess_node_is_not_runnable():
    assert preprocess_cpus(small_cell(preprocess_queue=1)) is None
    with pytest.raises(RunFailure, match="preprocess_node 999 is not a node of this host") as raised:
        preprocess_cpus(small_cell(preprocess_queue=1, preprocess_node=999))
    assert raised.value.status == "not_runnable"


@pytest.mark.parametrize("queue", [1, 4])
def test_every_batch_of_a_prepared_pipeline_is_right(queue):
    with torch.inference_mode():
        cell = small_cell(model=NO_COMPUTE, preprocess_queue=queue, dtype="bf16")
        pipeline = build_pipeline(cell, CpuDevice(), PhaseTimes())
        expected = pipeline.rings.inputs[0].clone()
        pipeline.rings.inputs[0].zero_()
        pipeline.run(2 * len(expected), no_beat)
        pipeline.drain()
        assert torch.equal(pipeline.rings.inputs[0], expected)
        for index in range(2 * len(expected) - len(pipeline.host_out), 2 * len(expected)):
            assert torch.equal(pipeline.output_of(index), expected[index % len(expected)])
        assert pipeline.prepare_us() > 0
        pipeline.close()
