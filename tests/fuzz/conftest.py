from tests.results.conftest import quick_run  # noqa: F401
