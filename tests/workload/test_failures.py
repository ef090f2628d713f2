import pytest
import torch

from bench.errors import StudyError
from bench.records.run import LASTING, RETRIED, Failure, Outcome
from bench.workload.failures import RunFailure, name_failure


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_oom(error):
    failure = name_failure(error)
    assert failure.status == "oom"
    assert failure.advice == "reduce batch_size or memory_size_mb"


@pytest.mark.parametrize(
    "text", ["CUDA error: uncorrectable ECC error encountered", "GPU is lost", "GPU has fallen off the bus"]
)
def test_gpu_that_failed_is_named_and_not_tried_again(text):
    failure = name_failure(RuntimeError(text))
    assert failure.status is Outcome.GPU_LOST and "Xid" in failure.advice
    assert Outcome.GPU_LOST in LASTING and Outcome.GPU_LOST not in RETRIED


def test_allocator_of_the_cpu_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert name_failure(raised.value).status == "oom"


def test_failure_keeps_its_name():
    failure = RunFailure(Outcome.NOT_RUNNABLE, "there is no GPU 9", "choose another")
    assert name_failure(failure) is failure
    expected = Failure(status=Outcome.NOT_RUNNABLE, reason="there is no GPU 9", advice="choose another")
    assert failure.record() == expected
    assert failure.exit_code == 3


def test_study_error_keeps_its_text_and_place():
    failure = name_failure(StudyError("not valid JSON", "cell.json", "delete the file"))
    expected = Failure(status=Outcome.CRASHED, reason="not valid JSON (cell.json)", advice="delete the file")
    assert failure.record() == expected


def test_anything_else_is_a_crash_in_one_line():
    failure = name_failure(ValueError("first line\nsecond line"))
    assert (failure.status, failure.what) == ("crashed", "ValueError: first line")
    assert "second" not in str(failure)
