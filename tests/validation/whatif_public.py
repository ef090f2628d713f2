"""What `numastudy whatif` says of public traces, in rows: python -m tests.validation.whatif_public FOLDER

Repositories are cloned into FOLDER, unless they are there; nothing of them is kept in this project.
"""

import subprocess
import sys
from pathlib import Path

from bench.errors import StudyError
from bench.whatif.command import Request, whatif

REPOSITORIES = {
    "facebookresearch/HolisticTraceAnalysis": ("tests/data/**/*.json.gz",),
    "AMD-AGI/TraceLens": ("tests/traces/h100/*.json.gz", "tests/traces/b200/*.json.gz", "tests/traces/mi300/*.json.gz"),
    "GindaChen/nsys-ai": ("tests/fixtures/*.sqlite",),
}


def main() -> None:
    folder = Path(sys.argv[1])
    for repository, patterns in REPOSITORIES.items():
        place = folder / repository.partition("/")[2]
        if not place.exists():
            address = f"https://github.com/{repository}"
            subprocess.run(["git", "clone", "--depth", "1", address, str(place)], check=True)
        for path in sorted(path for pattern in patterns for path in place.glob(pattern)):
            print(f"| {path.relative_to(folder)} | {row(path)} |", flush=True)


def row(path: Path) -> str:
    """Exit code, first line, and why there is no estimate."""
    try:
        found, code = whatif(path, Request())
    except StudyError as error:
        return f"{error.exit_code} | {error.what}"
    reasons = dict.fromkeys(gpu.text for gpu in found.gpus if gpu.refusals)
    return f"{code} | {' '.join((found.text, *reasons))}"


if __name__ == "__main__":
    main()
