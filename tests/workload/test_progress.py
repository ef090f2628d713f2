from bench.workload.progress import LAYOUT, Phase, Progress, read_allocating, read_progress


def test_parent_reads_what_the_child_counts(tmp_path):
    path = tmp_path / "progress"
    path.write_bytes(bytes(LAYOUT.size))
    progress = Progress(path)
    assert read_progress(path.read_bytes()) == (0, 0, 0)
    progress.enter(Phase.WARMUP, 10)
    progress.beat()
    progress.beat()
    assert read_progress(path.read_bytes()) == (2, 10, 1)
    progress.enter(Phase.MEASURING, 100)
    assert read_progress(path.read_bytes()) == (0, 100, 2)
    progress.enter(Phase.DONE)
    assert read_progress(path.read_bytes()) == (0, 0, 3)


def test_bytes_are_those_of_the_contract(tmp_path):
    path = tmp_path / "progress"
    path.write_bytes(bytes(LAYOUT.size))
    progress = Progress(path)
    progress.enter(Phase.MEASURING, 258)
    progress.beat()
    assert path.read_bytes() == bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])


def test_parent_reads_which_cell_is_being_allocated(tmp_path):
    path = tmp_path / "progress"
    path.write_bytes(bytes(LAYOUT.size))
    progress = Progress(path)
    assert read_allocating(path.read_bytes()) is None
    progress.allocate(0)
    assert read_allocating(path.read_bytes()) == 0 and read_progress(path.read_bytes()) == (0, 0, 0)
    progress.allocate(None)
    assert read_allocating(path.read_bytes()) is None


def test_progress_works_without_a_parent():
    progress = Progress()
    progress.enter(Phase.WARMUP)
    progress.beat()


def test_second_callback_is_called_for_every_batch():
    seen: list[int] = []
    progress = Progress()
    beat = progress.counting(lambda: seen.append(1))
    beat()
    beat()
    assert len(seen) == 2
    assert progress.counting(None) == progress.beat
