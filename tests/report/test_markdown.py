from bench.report.markdown import markdown


def test_the_answer_trust_and_table_are_there(numa_results):
    text = markdown(numa_results)
    assert "- **GPU 0** (Synthetic GPU 80GB): Run on node 0." in text
    assert "333 of 333 runs with their placement proved" in text
    assert sum(line.startswith("| pipeline\\_gpu") for line in text.splitlines()) == 48
    assert "**timeout**: not done after 600 s To do: raise timeout\\_s." in text


def test_the_cpu_device_is_told(quick_run, results_of):
    assert "> **CPU device: no GPU was measured**" in markdown(results_of(quick_run))


def test_hostile_text_cannot_break_the_table_or_become_markup(quick_run, results_of):
    results = results_of(quick_run)
    results["cells"][0] |= {"outcome": "crashed", "reason": "a|b\n| c | <script>alert(1)</script> [x](http://x)"}
    text = markdown(results)
    assert "<script>" not in text and "[x](" not in text
    assert "a\\|b \\| c \\|" in text


def test_runs_in_doubt_are_named(quick_run, results_of):
    results = results_of(quick_run)
    results["trust"] |= {"doubts": {"a_r1": "no pages", "b_r1": "no pages"}}
    assert "- placement not proved: no pages (a\\_r1, b\\_r1)" in markdown(results)
    assert "- **CPU**" in markdown(results)


def test_of_many_runs_in_doubt_a_few_are_named(quick_run, results_of):
    results = results_of(quick_run)
    results["trust"] |= {"disturbed_by": {f"r{number}": [f"another process: {number}"] for number in range(18)}}
    assert "- disturbed: another process (r0, r1, r10 and 15 more)" in markdown(results)


def test_a_sweep_says_what_matters(placed_results, numa_results):
    text = markdown(placed_results)
    fastest = "- The fastest way to run each model, and its gain on the base (CUDA graph off)\n"
    assert f"**What matters: CUDA graph.**\n\n{fastest}" in text
    assert "  - vit32x2x128: graph on " in text
    assert "\n- CUDA graph matters, against off\n  - cuda\\_graph on" in text
    assert "What matters" not in markdown(numa_results)


def test_the_question_comes_first_and_settings_before_nodes_that_were_not_compared(placed_results):
    asked = placed_results | {"study": placed_results["study"] | {"question": "Which <one>?"}}
    assert markdown(asked).startswith("# two\\_by\\_two\n\nWhich &lt;one&gt;?\n\nHost ")
    text = markdown(asked)
    assert text.index("- **GPU 0**") < text.index("**What matters")
    text = markdown(asked | {"penalties": []})
    assert text.index("**What matters") < text.index("- **GPU 0**")
