"""What a study of pretraining found, whole or of what is there so far: its answer, its figures, the table of a terminal."""

from __future__ import annotations

from typing import Any

from convmae.engine.text import decimals
from convmae.studies.figures import Spread, of_arm
from convmae.studies.plan import Arm
from convmae.studies.verdict import verdict
from convmae.studies.worth import Study

COSTS = ("pretraining", "search", "training", "one run")  # of an arm


def sentence(study: Study) -> str:
    """Returns the study's answer."""
    return verdict(study.comparisons(), study.measure, study.settings.labelled.floor)


def table(study: Study) -> str:
    """Returns the scores as text: an arm a line, mean and deviation over seeds in percent."""
    head = [f"{study.measure}, %", *(f"{share:g} % ({study.settings.pictures[share]})" for share in study.plan.shares)]
    rows = [
        head,
        *(
            [arm.name, *(_spread(of_arm(study.scores, arm.name, s)) for s in study.plan.shares)]
            for arm in study.plan.arms
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def cost(study: Study, arm: Arm) -> dict[str, float]:
    """Returns the seconds of an arm's pretraining, its search of a rate and its runs, and those of one run."""
    plan = study.plan
    made = plan.pretraining(arm).spent.clock if arm.is_pretrained_here else 0.0
    search = sum(plan.search(trial).spent.clock for trial in plan.trials if trial.arm == arm.name)
    cells = [cell for cell in plan.cells if cell.arm == arm.name and cell in study.scores]
    runs = [plan.training(cell, study.rates[arm.name]).spent.clock for cell in cells]
    each = sum(runs) / len(runs) if runs else 0.0
    return dict(zip(COSTS, (made, search, sum(runs), each), strict=True))


def figures(study: Study) -> dict[str, Any]:
    """Returns what ``worth.json`` holds: all figures, scores as parts of 1 and times in seconds."""
    plan = study.plan
    return {
        "answer": sentence(study),
        "measure": study.task.measure(study.settings.config)[0],
        "missing": sum(cell not in study.scores for cell in plan.cells),
        "pictures": {f"{share:g}": study.settings.pictures[share] for share in plan.shares},
        "steps": plan.steps,
        "scores": [{**cell._asdict(), "score": study.scores[cell]} for cell in plan.cells if cell in study.scores],
        "arms": {
            arm.name: {
                "init": arm.init,
                "rate": study.rates.get(arm.name),
                "seconds": cost(study, arm),
                "shares": {f"{share:g}": _numbers(of_arm(study.scores, arm.name, share)) for share in plan.shares},
            }
            for arm in plan.arms
        },
        "differences": [
            {
                "arm": found.arm,
                "other": found.other,
                "all": _numbers(found.whole),
                "shares": {f"{share:g}": _numbers(one) for share, one in found.by_share.items()},
            }
            for found in study.comparisons()
        ],
        "rates": [{**trial._asdict(), "score": score} for trial, score in study.searched.items()],
        "failures": study.failures,
    }


def _numbers(found: Spread | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "mean": found.mean,
        "deviation": found.deviation,
        "interval": found.ends and list(found.ends),
        "seeds": found.seeds,
    }


def _spread(found: Spread | None) -> str:
    if found is None:
        return "-"
    text = decimals(100 * found.mean, 1)
    return text if found.deviation is None else f"{text} ± {decimals(100 * found.deviation, 1)}"
