"""Stub: a fork server that imports nothing, whose runs are the Python in their first argument."""

import sys

import bench.workload.__main__ as program
from bench.workload import serve


def run(arguments: list[str], prog_name: str) -> None:
    exec(arguments[0], {})


serve.import_all = lambda: None
program.main = run

if __name__ == "__main__":
    sys.exit(serve.main(sys.argv[1:]))
