import pytest

from bench.workload.cell import as_load, parse_cell
from bench.workload.failures import RunFailure

from .cells import NO_COMPUTE, raw_cell, small_cell


def test_sizes_of_the_reference_workload():
    model = {"name": "vit32x2x128", "patch_size": 32, "depth": 2, "dim": 128, "heads": 4}
    cell = small_cell(model=model, image_size=224, batch_size=10, num_samples=1000)
    assert (cell.bytes_in_per_batch, cell.bytes_out_per_batch) == (6_021_120, 256_000)
    assert cell.output_shape == (10, 50, 128)
    assert cell.batches_per_pass == 100


def test_without_compute_as_much_comes_back_as_went_in():
    cell = small_cell(model=NO_COMPUTE)
    assert not cell.model.computes
    assert cell.output_shape == (4, 3, 32, 32)
    assert cell.bytes_out_per_batch == cell.bytes_in_per_batch == 4 * 3 * 32 * 32 * 4


def test_a_direction_that_is_not_copied_has_no_bytes_on_the_link():
    into, back = small_cell(direction="h2d"), small_cell(direction="d2h")
    assert (into.bytes_in_per_batch, into.bytes_out_per_batch) == (49_152, 0)
    assert (back.bytes_in_per_batch, back.bytes_out_per_batch) == (0, 2_560)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_halves_the_bytes(dtype):
    assert small_cell(dtype=dtype).bytes_in_per_batch * 2 == small_cell().bytes_in_per_batch


def test_a_pass_rounds_up_to_whole_batches():
    assert small_cell(num_samples=41, batch_size=4).batches_per_pass == 11


def test_keys_of_other_readers_are_passed_over():
    assert parse_cell(raw_cell(key="abc", outcome="ok")) == small_cell()


def test_a_load_of_copies_computes_nothing():
    assert as_load(raw_cell()) == raw_cell()
    assert not parse_cell(as_load(raw_cell(concurrent_load="copies"))).model.computes


def test_a_missing_key_is_named():
    raw = raw_cell()
    del raw["buffers"]
    with pytest.raises(RunFailure, match=r"incomplete: .*'buffers'"):
        parse_cell(raw)


@pytest.mark.parametrize(
    ("changes", "status", "what"),
    [
        ({"dtype": "fp8"}, "crashed", "dtype is 'fp8'"),
        ({"compile_model": "fast"}, "crashed", "compile_model is 'fast'"),
        ({"host_memory": "unified"}, "crashed", "host_memory is 'unified'"),
        ({"direction": "in"}, "crashed", "direction is 'in'"),
        ({"copy_granularity": "pixel"}, "crashed", "copy_granularity is 'pixel'"),
        ({"host_memory": "write-combined"}, "not_runnable", "host_memory write-combined is a kind of CUDA's"),
        ({"host_memory": "registered"}, "not_runnable", "host_memory registered is a kind of CUDA's"),
        ({"compile_model": "reduce-overhead"}, "not_runnable", "records CUDA graphs"),
        ({"direction": "d2h", "preprocess_queue": 2}, "not_runnable", "direction d2h makes none"),
        (
            {"direction": "d2h", "host_memory": "write-combined", "device": "cuda"},
            "not_runnable",
            "write-combined memory is for the copy in",
        ),
        ({"cuda_graph": True}, "not_runnable", "cuda_graph asks for a CUDA device"),
        ({"dtype": "tf32"}, "not_runnable", "tf32"),
        (
            {"device": "cuda", "cuda_graph": True, "compile_model": "reduce-overhead"},
            "not_runnable",
            "makes CUDA graphs of its own",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_name(changes, status, what):
    with pytest.raises(RunFailure, match=what) as raised:
        small_cell(**changes)
    assert raised.value.status == status
    assert raised.value.advice
