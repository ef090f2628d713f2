"""python3 -m bench.cli: the command numastudy, where it is not installed as a script."""

from bench.cli import main

main(prog_name="python3 -m bench.cli")
