"""The terms of reports, each with its meaning: on every page, and in docs/glossary.md."""

# Explained as an example of all of its kind.
MODEL_NAME = "vit16x8x768"

GLOSSARY = {
    "node": "A group of CPUs with the memory beside them (NUMA node). The local node of a GPU is the nearest one, "
    "every other is remote.",
    "placement": "The node whose CPUs a process may use, and the node that its buffers are on. It is proved where a "
    "run found each of its threads and pages there.",
    "cell": "One GPU, placement, model and setting: what is measured, and a row of the tables.",
    MODEL_NAME: "A vision transformer (the model) of patch size 16, depth 8 and width 768; vit0x0x0 computes nothing, "
    "it only copies.",
    "run": "One measurement of a cell. A timed run has no profiler; a traced run has one, and only explains.",
    "repeat": "Every timed run of a cell. The runs of two cells in the same repeat are a pair, and pairs are compared.",
    "penalty": "The share of its throughput that a cell loses on another node, against the local node; a negative one "
    "is a gain.",
    "interval": "Holds the true value in 95 of 100 such studies. Written as [low, high], rounded outward, or as "
    "half of its width behind the value.",
    "SAME": "No difference above the margin of the study, 2 % unless it was changed.",
    "SLOWER, FASTER": "A difference beyond the noise; only a probable one where it does not hold after correction "
    "for the number of comparisons in the study.",
    "UNDECIDED": "The runs show neither; the end of the interval is the most that may be lost. In results.json "
    "NOT RESOLVABLE where more repeats than --max-repeats would be needed.",
    "regime": "What limits a cell, by its trace: transfer-bound by copies; compute-bound by kernels; balanced by "
    "both. Where the GPU is idle for a fifth of the time: launch-bound by late launches, or stalled by something "
    "else.",
    "spread": "The standard deviation of the runs of a cell, as a share of their mean.",
    "disturbed": "A run during which the GPU was throttled, or the GPU or the CPUs were used by others. It does not "
    "count where two others or more do.",
    "link": "The connection of a GPU to memory. Its measured speed is what percentages of copies refer to.",
}
"""Meaning by term; at most fifteen."""
