from bench.report.axes import crowded_line
from bench.report.text import Loss


def loss(label, share, verdict="SLOWER"):
    interval = share - 0.005, share + 0.005
    return Loss(label, "node 1", 1, False, share, interval, verdict, True, label, "", "")


def test_a_place_is_told_by_model_with_the_settings_of_the_least_and_the_largest_loss():
    losses = [
        loss("a", 0.2),
        loss("a bs1", 0.04),
        loss("a bs8", 0.3),
        loss("a bs32", 0.0, "SAME"),
        loss("b", 0.0, "SAME"),
    ]
    assert crowded_line("node 1", losses) == (
        "On node 1 a loses 4.0 % (bs1) to 30 % (bs8) in 3 of 4 settings (nothing above 0.5 % in 1); "
        "b loses nothing above 0.5 % in any setting."
    )


def test_losses_shown_alike_are_no_range_and_gpus_of_one_setting_are_not_named():
    assert "a loses 30 % in 2 of 2" in crowded_line("node 1", [loss("a", 0.3), loss("a bs1", 0.301)])
    assert "a loses 20 % to 30 % in 2 of 2" in crowded_line("node 1", [loss("a bs1", 0.2), loss("a bs1", 0.3)])
