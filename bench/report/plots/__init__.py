"""Figures as SVG."""

import logging

# Without a home that can be written matplotlib warns, at its import, of the temporary folder that it uses instead.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
