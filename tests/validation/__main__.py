"""python -m tests.validation: see validate.py."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
runpy.run_path(str(FOLDER / "validate.py"), run_name="__main__")
