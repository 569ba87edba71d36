"""The page of a study of pretraining: the answer, learning curves over labels, and every figure they rest on."""

from __future__ import annotations

from typing import Any

from convmae.engine.log import duration
from convmae.engine.text import decimals
from convmae.reports.page import Gain, Number, Page, Share, environment, write_metrics
from convmae.reports.plots import spreads
from convmae.studies.answer import COSTS, cost, figures, sentence
from convmae.studies.figures import Cell, labels_needed, of_arm
from convmae.studies.plan import SCRATCH, mean_scores
from convmae.studies.verdict import POINT
from convmae.studies.worth import Study

INTERVALS = (
    "Intervals are 95 %, by Student's t over the seeds; those of differences are paired: a seed's runs have the same labelled "
    "pictures, the same order of pictures and the same number of steps in all arms. A seed draws its own labelled pictures, so "
    "that intervals cover the draw and the training; at 100 % all have the same. They don't cover another pretraining run, "
    "which is done once for all seeds, nor other validation pictures. Each interval holds by itself: of twenty differences "
    "that are none, one is expected to leave out 0."
)


def write_answer(study: Study) -> None:
    """Writes ``report/index.html`` and ``worth.json`` of what is finished."""
    folder = study.plan.work_dir
    page(study).write(folder / "report" / "index.html")
    write_metrics(folder / "worth.json", figures(study))


def page(study: Study) -> Page:
    """Returns the report page."""
    plan, settings = study.plan, study.settings
    one = Page("Does pretraining pay?", f"{study.task.title}, {settings.config.data.root}")
    one.headline(_headline(study))
    one.text("Answer", [sentence(study), *_missing(study), *_edges(study)])
    one.figure(
        f"{study.measure[:1].upper()}{study.measure[1:]} over labels",
        spreads(
            {
                arm.name: {
                    settings.pictures[share]: [
                        100 * study.scores[cell] for cell in _cells(study, arm.name, share) if cell in study.scores
                    ]
                    for share in plan.shares
                }
                for arm in plan.arms
            },
            {
                arm.name: {
                    settings.pictures[share]: (100 * found.ends.low, 100 * found.ends.high)
                    for share in plan.shares
                    if (found := of_arm(study.scores, arm.name, share)) and found.ends
                }
                for arm in plan.arms
            },
            {settings.pictures[share]: f"{share:g} %\n{settings.pictures[share]}" for share in plan.shares},
            "labelled training pictures",
            f"{study.measure}, %",
        ),
        "Means over seeds, the single seeds faint; bars are 95 % intervals of the means, cut where they leave the picture.",
    )
    _add_differences(one, study)
    _add_scores(one, study)
    _add_labels(one, study)
    _add_cost(one, study)
    _add_rates(one, study)
    one.text("How to read it", [INTERVALS, _selection(study)])
    if study.failures:
        one.table("Runs that failed", ["run", "reason"], [[name, reason] for name, reason in study.failures.items()])
    _add_setting(one, study)
    return one


def _headline(study: Study) -> list[Number]:
    """The gains over scratch, and what is done of the runs."""
    numbers = []
    for found in study.comparisons():
        if found.other == SCRATCH and found.whole:
            count = len(found.whole.seeds)
            alone = f"{count} seeds, all the same: no interval" if count > 1 else "one seed, no interval"
            note = found.whole.ends.points("+") if found.whole.ends else alone
            gain = f"{decimals(100 * found.whole.mean, 1, '+')}"
            numbers.append(
                Number(f"{found.arm}, points of {study.measure} over scratch", gain, f"mean over shares; {note}")
            )
    cells = study.plan.cells
    done = sum(cell in study.scores for cell in cells)
    if done < len(cells):
        numbers.append(Number("Finished", f"{done} of {len(cells)}", "runs that count"))
    return numbers


def _missing(study: Study) -> list[str]:
    """Says what is not there yet."""
    missing = [cell for cell in study.plan.cells if cell not in study.scores]
    if not missing:
        return []
    seeds = {
        seed: sum(cell.seed == seed for cell in missing)
        for seed in study.plan.seeds
        if any(c.seed == seed for c in missing)
    }
    told = ", ".join(f"{count} of seed {seed}" for seed, count in seeds.items())
    return [f"This page is of a part of the study: {len(missing)} of {len(study.plan.cells)} runs are missing, {told}."]


def _edges(study: Study) -> list[str]:
    """Names the arms whose best rate may lie beyond those that were tried."""
    ends = {study.plan.rates[0], study.plan.rates[-1]}
    arms = [name for name, rate in study.rates.items() if rate in ends and study.searched]
    if not arms:
        return []
    return [
        f"The best learning rate of {' and '.join(arms)} is the smallest or the largest of those that were tried; others, by "
        "--rates, may change the answer."
    ]


def _cells(study: Study, arm: str, share: float) -> list[Cell]:
    return [Cell(arm, share, seed) for seed in study.plan.seeds]


def _add_differences(page: Page, study: Study) -> None:
    rows: list[list[Any]] = []
    for found in study.comparisons():
        several = {"all shares": found.whole} if len(study.plan.shares) > 1 else {}
        for name, gain in {**several, **{f"{share:g} %": one for share, one in found.by_share.items()}}.items():
            if gain:
                ends = [Gain(end) for end in gain.ends] if gain.ends else [None, None]
                rows.append([f"{found.arm} less {found.other}", name, Gain(gain.mean), *ends, len(gain.seeds)])
    if rows:
        page.table(
            f"Differences in {study.measure}",
            ["arms", "labels", "difference", "from", "to", "seeds"],
            rows,
            "In points, paired by seed; from and to are the ends of a 95 % interval, which one seed has not, nor several that "
            "are all the same.",
            sortable=False,
        )


def _add_scores(page: Page, study: Study) -> None:
    rows: list[list[Any]] = []
    for arm in study.plan.arms:
        for share in study.plan.shares:
            if found := of_arm(study.scores, arm.name, share):
                deviation = "–" if found.deviation is None else f"± {decimals(100 * found.deviation, 1)}"
                pictures = study.settings.pictures[share]
                rows.append([arm.name, f"{share:g} %", pictures, Share(found.mean), deviation, len(found.seeds)])
    if rows:
        heads = ["arm", "labels", "pictures", study.measure, "deviation", "seeds"]
        page.table("Scores", heads, rows, "Mean and deviation over seeds.")


def _add_labels(page: Page, study: Study) -> None:
    """Adds how many labels scratch needs for what the others reach."""
    curve = _curve(study, SCRATCH)
    rows: list[list[Any]] = []
    for arm in study.plan.arms:
        for pictures, score in _curve(study, arm.name) if arm.name != SCRATCH and len(curve) > 1 else []:
            needed = labels_needed(curve, score)
            ratio = f"{needed / pictures:.1f}" if needed else "–"
            said = "more than all" if needed is None else f"about {needed:.0f}" if needed else f"{curve[0][0]} or fewer"
            rows.append([arm.name, pictures, Share(score), said, ratio])
    if rows:
        page.table(
            "Labels that are saved",
            ["arm", "pictures", study.measure, "scratch needs", "times as many"],
            rows,
            "With how many labelled pictures scratch reaches the same mean, by its own curve, straight between two points over "
            "the logarithm of the pictures. Means alone: no interval.",
        )


def _curve(study: Study, arm: str) -> list[tuple[int, float]]:
    found = [(study.settings.pictures[share], of_arm(study.scores, arm, share)) for share in study.plan.shares]
    return [(pictures, one.mean) for pictures, one in found if one]


def _add_cost(page: Page, study: Study) -> None:
    gained = {found.arm: found.whole for found in study.comparisons() if found.other == SCRATCH}
    rows: list[list[Any]] = []
    for arm in study.plan.arms:
        spent, gain = cost(study, arm), gained.get(arm.name)
        a_point = spent["pretraining"] / (100 * gain.mean) if gain and gain.mean > 0 else 0.0
        times = [*(spent[name] for name in COSTS), a_point]
        rows.append([arm.name, *(duration(seconds) if seconds else "–" for seconds in times)])
    page.table(
        "Time",
        ["arm", *COSTS, "pretraining for a point"],
        rows,
        f"By the clock, {study.plan.jobs} at a time. The last column has the pretraining for each point gained over "
        "scratch as a mean over the shares, where that is a gain, however sure. What given weights cost isn't known here.",
        sortable=False,
    )


def _add_rates(page: Page, study: Study) -> None:
    if not study.searched:
        return
    rows: list[list[Any]] = []
    means, draws = mean_scores(study.searched), study.plan.draws
    for arm in study.plan.arms:
        for rate in study.plan.rates:
            count, found = means.get((arm.name, rate), (0, None))
            said = "chosen" if study.rates.get(arm.name) == rate else ""
            if said and rate in (study.plan.rates[0], study.plan.rates[-1]):
                said = "chosen, at the edge of those tried"
            if said and found is not None and found < study.settings.labelled.floor + POINT:
                said = "chosen, though nothing was learnt"
            if 0 < count < draws:
                said = ", ".join([*filter(None, [said]), f"mean of {count} of {draws} runs"])
            rows.append([arm.name, rate, None if found is None else Share(found), said])
    page.table("Learning rates", ["arm", "optim.lr", study.measure, ""], rows, _tried(study), sortable=False)


def _tried(study: Study) -> str:
    share, seeds = study.plan.search_share, study.plan.search_seeds
    runs, by = "one run each", f"a seed ({seeds[0]})"
    if len(seeds) > 1:
        runs, by = f"{len(seeds)} runs each, of which the mean counts,", f"seeds ({seeds[0]} to {seeds[-1]})"
    return (
        f"Each arm tried the same rates, by {runs} on {share:g} % of the labels, drawn by {by} that no run that counts has; a "
        "dash: the runs failed, or are missing. Where the best lies at the edge, a rate beyond may be better."
    )


def _selection(study: Study) -> str:
    """Says which pictures chose what, and what of the recipe differs between arms."""
    chosen = (
        "Rates were chosen by the same validation pictures that the scores are of; for all arms in the same way, so that "
        "scores may be a little too high, and differences less so."
        if len(study.plan.rates) > 1
        else f"No rates were tried: all arms have {study.plan.rates[0]:g}, which may suit one better than another."
    )
    decay = study.settings.config.optim.layer_decay
    if study.plan.scratch_options:
        chosen += (
            f" Arms with weights train by the recipe's layer decay, {decay:g}; scratch has none (1), as lower layers that "
            "know nothing have to learn as fast."
        )
    return f"{chosen} A run is evaluated once, at its end."


def _add_setting(page: Page, study: Study) -> None:
    plan, settings = study.plan, study.settings
    facts = {
        "data": f"{settings.config.data.root}: {len(settings.labelled.training)} training, "
        f"{len(settings.labelled.validation)} validation pictures",
        "training": f"{plan.recipe}, {plan.steps} steps of {settings.config.data.batch_size} pictures at every share, encoder "
        f"{settings.size}",
        "seeds": ", ".join(map(str, plan.seeds)),
    }
    if plan.pretrained_arms:
        facts["pretraining"] = (
            f"{plan.pretrain_recipe}, {plan.pretraining_steps} steps on {settings.pretraining.pictures} pictures of "
            f"{settings.pretraining.root}, once for all seeds"
        )
        seen, count = settings.pretraining.seen, len(settings.labelled.validation)
        facts["validation pictures in it"] = f"{seen} of {count}" + (", without their labels" if seen else "")
    for arm in plan.arms:
        if arm.pretrained_from:
            facts[arm.name] = f"pretrained here, starting from {arm.pretrained_from}"
        elif arm.init and not arm.is_pretrained_here:
            facts[arm.name] = arm.init
    for (share, seed), names in settings.lacking.items():
        if share in plan.shares and seed in plan.seeds:
            facts[f"classes not in {share:g} % by seed {seed}"] = ", ".join(names)
    facts["runs"] = f"{plan.work_dir}: config.yaml, metrics.json, scalars.jsonl and log.txt of each"
    page.facts("Setting", {**facts, **environment()})
