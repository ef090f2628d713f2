"""The doctor's look at the host before a study measures anything. Kept beside the study, for its report."""

import sys

from bench.errors import StudyError
from bench.files import read_json, write_json
from bench.host.doctor import OK, run_doctor
from bench.study.directory import RunDirectory


def preflight(directory: RunDirectory, strict: bool) -> None:
    """Run the doctor once for a study and print what is not ok. Raise StudyError for any of it if strict."""
    path = directory.preflight
    if path.exists() and not strict:
        checks = read_json(path)["checks"]
    else:
        pool_bytes = directory.study()["memory_size_mb"] << 20
        checks = [vars(check) for check in run_doctor(directory.path, pool_bytes)]
        write_json(path, {"checks": checks})
        for check in checks:
            if check["state"] != OK:
                print("{state}: {name}: {fact}\n  to do: {remedy}".format(**check), file=sys.stderr)
    bad = [check for check in checks if check["state"] != OK]
    if strict and bad:
        raise StudyError(
            f"{len(bad)} warnings of the preflight are errors with --strict: " + "; ".join(c["name"] for c in bad),
            str(path),
            "numastudy doctor says what to do about each",
        )
