"""A trace from an export in the nsys schema, whatever the profiler and the version were."""

from pathlib import Path

import numpy as np

from bench.trace.activities import GIVEN_NAMES, MEMORY_KINDS, TABLES, read_activities
from bench.trace.database import Export, open_export
from bench.trace.model import Activities, Device, Kind, Trace
from bench.trace.schema import KERNEL, MEMCPY, NVTX, RUNTIME
from bench.trace.window import Window, named_stages, read_window


def read_trace(path: Path | str, name: str | None = None) -> Trace:
    """Read .sqlite or .sqlite.gz. Raise TraceError, by name, for everything that would make a number wrong."""
    with open_export(path) as export:
        _check_tables(export)
        window = read_window(export)
        activities = read_activities(export, window)
        _check_activities(export, window, activities)
        return Trace(
            name or Path(path).name.removesuffix(".gz").removesuffix(".sqlite"),
            window,
            activities,
            _devices(export, window, activities),
            _names(export, activities),
            export.enum("ENUM_CUDA_MEM_KIND", MEMORY_KINDS),
            _null_streams(export, window),
        )


def _check_tables(export: Export) -> None:
    if not any(export.has(table) for table in (NVTX, RUNTIME, *TABLES, "StringIds")):
        export.fail(
            "not an export of a trace: it has none of the tables of nsys", "give the .sqlite that nsys export made"
        )
    if not any(export.filled(table) for table in (RUNTIME, *TABLES)):
        export.fail(
            "no CUDA activity in this trace",
            "nsys sees only CUDA: trace the cpu device with profiler: torch; on a GPU trace with -t cuda,nvtx",
        )
    if not export.filled(MEMCPY):
        export.fail(f"no copy in this trace: table {MEMCPY} is missing or empty")


def _check_activities(export: Export, window: Window, activities: Activities) -> None:
    if not len(activities):
        export.fail("the window is empty: its API calls launched nothing on the device")
    named = named_stages(export, window)
    for kind, title in ((Kind.H2D, "H2D"), (Kind.D2H, "D2H")):
        if "compute" in named and title.lower() not in named and not (activities.kind == kind).any():
            # A cell that copies one way only has no range for the other; whether it should, conservation tells.
            continue
        chosen = activities.batch[activities.kind == kind]
        if not len(chosen):
            export.fail(f"no {title} copy inside the window")
        lacking = np.setdiff1d(np.arange(len(window.batch_start)), chosen)
        if len(lacking):
            export.fail(
                f"{len(lacking)} of {len(window.batch_start)} batches have no {title} copy, "
                f"first {window.batch_names[lacking[0]]}",
                "the profiler lost records: measure the cell again",
            )
    if activities.start.min() == activities.end.max():
        export.fail("the window is empty: no activity in it takes any time")
    if not (activities.kind == Kind.COMPUTE).any():
        _check_no_launch(export, window)


def _check_no_launch(export: Export, window: Window) -> None:
    """No compute is right for a model without layers, and wrong if something was launched."""
    if not (export.has(RUNTIME, "nameId") and export.has("StringIds", "id", "value")):
        return
    found = export.rows(
        f"""SELECT count(*) FROM {RUNTIME} r JOIN StringIds s ON s.id = r.nameId
            WHERE r.globalTid = ? AND r.start >= ? AND r.start < ?
            AND (s.value GLOB 'cu*LaunchKernel*' OR s.value GLOB 'cu*GraphLaunch*')""",
        (window.global_tid, window.start, window.end),
    )
    if found[0][0]:
        export.fail(
            f"{found[0][0]} launches in the window and no kernel ({KERNEL})",
            "the profiler lost records: measure the cell again",
        )


def _names(export: Export, activities: Activities) -> dict[int, str]:
    wanted = set(np.unique(activities.name[activities.kind == Kind.COMPUTE]).tolist())
    names = {key: text for key, text in GIVEN_NAMES.items() if key in wanted}
    if export.has("StringIds", "id", "value"):
        for key in sorted(wanted - set(GIVEN_NAMES)):
            for (value,) in export.rows("SELECT value FROM StringIds WHERE id = ?", (key,)):
                names[key] = str(value)
    return names | {key: f"kernel {key}" for key in wanted - names.keys()}


def _devices(export: Export, window: Window, activities: Activities) -> tuple[Device, ...]:
    gpus = {}
    if export.has("TARGET_INFO_GPU", "id", "name", "uuid", "busLocation"):
        gpus = {row[0]: row[1:] for row in export.rows("SELECT id, name, uuid, busLocation FROM TARGET_INFO_GPU")}
    # CUDA_VISIBLE_DEVICES renumbers: cudaId is the process's number of the GPU, gpuId the host's.
    host_ids = {}
    if export.has("TARGET_INFO_CUDA_DEVICE", "gpuId", "cudaId", "pid"):
        rows = export.rows("SELECT cudaId, gpuId FROM TARGET_INFO_CUDA_DEVICE WHERE pid = ?", (window.pid,))
        host_ids = dict(rows)
    devices = []
    for number in np.unique(activities.device).tolist():
        name, uuid, bus = gpus.get(host_ids.get(number, number), (None, None, None))
        uuid = f"GPU-{uuid}" if isinstance(uuid, str) and not uuid.startswith(("GPU-", "MIG-")) else uuid
        devices.append(Device(number, uuid or None, name, bus))
    return tuple(devices)


def _null_streams(export: Export, window: Window) -> frozenset[int]:
    if not export.has("TARGET_INFO_CUDA_CONTEXT_INFO", "nullStreamId", "processId"):
        return frozenset()
    rows = export.rows("SELECT nullStreamId FROM TARGET_INFO_CUDA_CONTEXT_INFO WHERE processId = ?", (window.pid,))
    return frozenset(row[0] for row in rows)
