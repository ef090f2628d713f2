"""Every task a user names: `luigi --module tasks NumaStudy`."""

from tasks.luigi_runtime import (
    apply_project_settings,
    hide_false_warnings,
    hide_tracebacks,
    keep_own_worker,
    tell_of_the_same_command,
)
from tasks.progress import hush_luigi

# Luigi imports this module before it reads its settings.
apply_project_settings()
keep_own_worker()
hide_false_warnings()
hide_tracebacks()
tell_of_the_same_command()
hush_luigi()

from tasks.before_runs import MeasureLink  # noqa: E402
from tasks.nightly import NightCheck, NightlySweep, NightVerdict  # noqa: E402
from tasks.report import CellCheck, StudyCheck, StudyReport  # noqa: E402
from tasks.stages import ExportSpan, ExportSqlite, ExtractLatency, ExtractSpan, RunPipeline, RunSpan  # noqa: E402
from tasks.studies import NumaStudy, QuickTest, ScalingStudy, SelfCheck, Study  # noqa: E402

__all__ = [
    "CellCheck",
    "ExportSpan",
    "ExportSqlite",
    "ExtractLatency",
    "ExtractSpan",
    "MeasureLink",
    "NightCheck",
    "NightVerdict",
    "NightlySweep",
    "NumaStudy",
    "QuickTest",
    "RunPipeline",
    "RunSpan",
    "ScalingStudy",
    "SelfCheck",
    "Study",
    "StudyCheck",
    "StudyReport",
]
