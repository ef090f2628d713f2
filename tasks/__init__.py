"""Every task a user names: `luigi --module tasks NumaStudy`."""

from tasks import command_line, luigi_runtime, progress
from tasks.before_runs import MeasureLink, Probe
from tasks.nightly import NightCheck, NightlySweep, NightVerdict
from tasks.repeats import MoreRepeats, ProbeAgain
from tasks.report import CellCheck, StudyCheck, StudyReport
from tasks.stages import ExportSqlite, ExtractLatency, RunPipeline
from tasks.studies import CommandStudy, NearestNode, NumaStudy, QuickTest, ScalingStudy, SelfCheck, Study

# luigi imports this module before it reads its settings.
luigi_runtime.install()
progress.install()
command_line.check()

__all__ = [
    "CellCheck",
    "CommandStudy",
    "ExportSqlite",
    "ExtractLatency",
    "MeasureLink",
    "MoreRepeats",
    "NearestNode",
    "NightCheck",
    "NightVerdict",
    "NightlySweep",
    "NumaStudy",
    "Probe",
    "ProbeAgain",
    "QuickTest",
    "RunPipeline",
    "ScalingStudy",
    "SelfCheck",
    "Study",
    "StudyCheck",
    "StudyReport",
]
