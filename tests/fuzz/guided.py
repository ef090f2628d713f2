"""Damage guided by coverage: python -m tests.fuzz.guided TARGET CORPUS [libFuzzer's flags]. Needs atheris."""

import sys

import atheris

with atheris.instrument_imports(include=["bench"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
