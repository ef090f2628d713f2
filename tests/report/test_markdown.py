from shlex import quote

from msgspec.structs import replace

from bench.records.base import convert
from bench.records.results import Trust
from bench.records.run import Outcome
from bench.records.study import Model
from bench.report.markdown import markdown
from bench.report.text.glossary import GLOSSARY, MODEL_NAME
from tests.report.made import changed, trust, with_cell


def test_answer_trust_and_table_are_there(numa_view):
    text = markdown(numa_view.results)
    assert "- **GPU 0** (Synthetic GPU 80GB): Run on node 0." in text
    assert "333 of 333 runs with proved placement" in text
    assert sum(line.startswith("| pipeline\\_gpu") for line in text.splitlines()) == 48
    assert "**timeout**: not done after 600 s To do: raise timeout\\_s." in text


def test_a_decided_answer_has_a_line_to_paste_for_each_gpu(numa_view):
    text = markdown(numa_view.results)
    pasted = text.partition("```sh\n")[2].partition("\n```")[0].splitlines()
    assert [line.split("numactl ")[1] for line in pasted] == [
        f"--cpunodebind={node} --membind={node} python serve.py" for node in (0, 0, 2, 2)
    ]
    assert f"`numastudy advise {quote(numa_view.results.run_directory)} --format slurm`" in text


def test_nothing_to_paste_where_there_is_no_choice_of_node(quick_run, view_of):
    assert "```" not in markdown(view_of(quick_run).results)


def test_names_of_models_are_explained(numa_view):
    text = markdown(numa_view.results)
    assert f"Names of models, such as {MODEL_NAME}: {GLOSSARY[MODEL_NAME]}\n" in text
    cell = replace(
        numa_view.results.cells[0], model=Model(source="timm:resnet50", patch_size=0, depth=0, dim=0, heads=0)
    )
    assert "Names of models" not in markdown(changed(numa_view, cells=(cell,), penalties=()).results)


def test_the_cpu_device_is_named(quick_run, view_of):
    assert "> **CPU device: no GPU was measured**" in markdown(view_of(quick_run).results)


def test_hostile_text_cannot_break_the_table_or_become_markup(quick_run, view_of):
    view = view_of(quick_run)
    reason = "a|b\n| c | <script>alert(1)</script> [x](http://x)"
    name = view.results.cells[0].name
    text = markdown(with_cell(view, name, outcome=Outcome.CRASHED, reason=reason).results)
    assert "<script>" not in text and "[x](" not in text
    assert "a\\|b \\| c \\|" in text


def test_runs_in_doubt_are_named(quick_run, view_of):
    doubt = [{"kind": "pages", "text": "no pages"}]
    found = convert(trust(unproved_reasons={"a_r1": doubt, "b_r1": doubt}), Trust)
    text = markdown(changed(view_of(quick_run), trust=found).results)
    assert "- placement not proved: no pages (a\\_r1, b\\_r1)" in text
    assert "- **CPU**" in text


def test_a_few_of_many_runs_in_doubt_are_named(quick_run, view_of):
    reasons = {f"r{number}": [{"kind": "other_processes", "text": f"process {number}"}] for number in range(18)}
    text = markdown(changed(view_of(quick_run), trust=convert(trust(disturbed_by=reasons), Trust)).results)
    assert "- disturbed: other processes used the GPU (r0, r1, r10 and 15 more)" in text


def test_a_sweep_states_what_matters(placed_view, numa_view):
    text = markdown(placed_view.results)
    fastest = "- The fastest settings of each model, and their gain over the base (CUDA graph off)\n"
    assert f"**What matters: CUDA graph.**\n\n{fastest}" in text
    assert "  - vit32x2x128: graph on " in text
    assert "\n- CUDA graph matters, against off\n  - cuda\\_graph on" in text
    assert "What matters" not in markdown(numa_view.results)


def test_settings_come_before_nodes_that_were_not_compared(placed_view):
    study = replace(placed_view.results.study, question="Which <one>?")
    asked = replace(placed_view.results, study=study)
    text = markdown(asked)
    assert text.startswith("# two\\_by\\_two\n\nWhich &lt;one&gt;?\n\nHost ")
    assert text.index("- **GPU 0**") < text.index("**What matters")
    text = markdown(replace(asked, penalties=()))
    assert text.index("**What matters") < text.index("- **GPU 0**")
