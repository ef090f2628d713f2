"""The doctor's look at the host before a study measures anything. Kept beside the study, for its report."""

import sys

from bench.errors import StudyError
from bench.files import write_json
from bench.host.doctor import OK, run_doctor
from bench.study.directory import RunDirectory
from tasks.of_study import grid_of


def preflight(directory: RunDirectory, strict: bool) -> None:
    """Run the doctor once for a study and print what is not ok. Raise StudyError for any of it if strict."""
    if directory.preflight.exists() and not strict:
        return
    largest_mb = max(cell.memory_size_mb for cell in grid_of(str(directory.path)).cells.values())
    checks = run_doctor(directory.path, largest_mb << 20)
    write_json(directory.preflight, {"checks": [vars(check) for check in checks]})
    bad = [check for check in checks if check.state != OK]
    for check in bad:
        print(f"{check.state}: {check.name}: {check.fact}\n  to do: {check.remedy}", file=sys.stderr)
    if strict and bad:
        raise StudyError(
            f"{len(bad)} warnings of the preflight are errors with --strict: " + "; ".join(check.name for check in bad),
            str(directory.preflight),
            "numastudy doctor says what to do about each",
        )
