from bench.analysis.load import measured_at


def test_a_report_made_again_keeps_the_time_of_the_first_run():
    runs = [{"started_at": "2026-11-22T19:47:43Z"}, {"started_at": "2026-11-22T19:46:23Z"}, {}]
    results = {"created_at": "2026-11-23T01:48:28+00:00", "cells": [{"runs": runs}, {"runs": []}]}
    assert measured_at(results) == "2026-11-22T19:46:23Z"


def test_without_runs_it_is_when_the_results_were_made():
    assert measured_at({"created_at": "2026-11-23T01:48:28+00:00", "cells": []}) == "2026-11-23T01:48:28+00:00"
