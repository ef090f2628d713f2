"""Results with the English of every entry, for readers of the files."""

from msgspec.structs import replace

from bench.records.results import AxisComparison, Line, MeasuredCell, Penalty, Results, Rules, SelfCheck
from bench.report.text.answer import answers
from bench.report.text.axes import model_text, summary_text
from bench.report.text.cells import advice_text, hidden_copies_text, outcome_text, reason_text, remark_text
from bench.report.text.deciding import deciding_hint, penalty_text
from bench.report.text.scale import scale_of
from bench.report.text.trust import self_check_text
from bench.report.text.verdicts import change_text, hint_text, line_text, verdict_text
from bench.report.view import View


def with_text(results: Results) -> Results:
    """The same with every `text` and `hint` filled in; only for what is written."""
    view = View(results)
    sentences = {answer.gpu: answer.sentence for answer in answers(view)}
    return replace(
        results,
        cells=tuple(map(_cell, results.cells)),
        recommendations=tuple(replace(one, text=sentences[one.gpu]) for one in results.recommendations),
        penalties=tuple(_penalty(view, entry) for entry in results.penalties),
        comparisons=tuple(_axis(view, entry) for entry in results.comparisons),
        hidden_copies=tuple(replace(entry, text=hidden_copies_text(entry)) for entry in results.hidden_copies),
        contention=tuple(
            replace(entry, isolated=entry.isolated and _line(view, entry.isolated)) for entry in results.contention
        ),
    )


def self_check_with_text(found: SelfCheck, rules: Rules) -> SelfCheck:
    """Likewise, for noise_floor.json."""
    comparisons = tuple(
        replace(one, text=verdict_text(one, one.penalty, rules), hint=hint_text(one)) for one in found.comparisons
    )
    return replace(found, comparisons=comparisons, text=self_check_text(found))


def _cell(cell: MeasuredCell) -> MeasuredCell:
    remarks = tuple(replace(remark, text=remark_text(remark)) for remark in cell.remarks)
    texts = {"text": outcome_text(cell), "reason": reason_text(cell), "advice": advice_text(cell)}
    return replace(cell, remarks=remarks, **texts)


def _penalty(view: View, entry: Penalty) -> Penalty:
    rules, scale = view.results.rules, scale_of(view.cells[entry.remote_cell].metric)
    effects = entry.effects and {
        contrast: replace(effect, text=verdict_text(effect, effect.penalty, rules, scale), hint=hint_text(effect))
        for contrast, effect in entry.effects.items()
    }
    changes = {measure: replace(one, text=change_text(one)) for measure, one in entry.changes.items()}
    return replace(
        entry,
        text=penalty_text(view.results, entry, scale),
        hint=deciding_hint(view.results, entry),
        effects=effects,
        changes=changes,
    )


def _line(view: View, line: Line) -> Line:
    return replace(line, text=line_text(line, view.results.rules, view.cells), hint=hint_text(line))


def _axis(view: View, entry: AxisComparison) -> AxisComparison:
    summary = tuple(
        replace(
            value,
            text=summary_text(entry, value),
            models=tuple(replace(model, text=model_text(entry, value, model)) for model in value.models),
        )
        for value in entry.summary
    )
    return replace(entry, lines=tuple(_line(view, line) for line in entry.lines), summary=summary)
