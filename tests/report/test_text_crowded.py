"""A placement where every model was compared under several settings."""

from bench.records.results import Verdict
from bench.report.text.answer import Loss, crowded_line


def loss(model, settings, share, verdict="SLOWER"):
    interval = share - 0.005, share + 0.005
    return Loss(
        model=model, settings=settings, label=f"{model} {settings}", place="node 1", split=False, share=share,
        interval=interval, verdict=Verdict(verdict), significant=True, cell="cell",
    )  # fmt: skip


def test_names_the_settings_of_the_least_and_the_largest_loss():
    losses = [
        loss("a", "", 0.2),
        loss("a", "bs1", 0.04),
        loss("a", "bs8", 0.3),
        loss("a", "bs32", 0.0, "SAME"),
        loss("b", "", 0.0, "SAME"),
    ]
    assert crowded_line("node 1", losses) == (
        "On node 1 a loses 4.0 % (bs1) to 30 % (bs8) in 3 of 4 settings (nothing above 0.5 % in 1); "
        "b loses nothing above 0.5 % in any setting."
    )


def test_equal_losses_are_no_range_and_equal_settings_unnamed():
    assert "a loses 30 % in 2 of 2" in crowded_line("node 1", [loss("a", "", 0.3), loss("a", "bs1", 0.301)])
    assert "a loses 20 % to 30 % in 2 of 2" in crowded_line("node 1", [loss("a", "bs1", 0.2), loss("a", "bs1", 0.3)])
