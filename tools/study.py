"""Compare ways to pretrain, in miniature: pretrain each, probe and fine-tune it, put all in one table and one picture.

python tools/study.py data/imagenet_mini --epochs 5 --seeds 0 --work-dir work_dirs/study

Every run is a call of the other tools, on one thread, whose processor time is counted, or on a GPU, where it is the clock's;
what is finished is not run again.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import os
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from convmae.engine.commands.cli import run_tool
from convmae.engine.errors import UserError
from convmae.engine.shards.places import place
from convmae.studies.runs import Run, finish, gpus

PROBES = {"knn": "k-NN", "linear": "linear probe"}
SCRATCH = "scratch"


class Method(NamedTuple):
    """A line of the study: its label, its recipe and what differs from it, and its epochs as a multiple of the study's."""

    label: str
    recipe: str
    options: tuple[str, ...]
    multiple: int


METHODS = {
    # Four views a picture: at a quarter of the pictures it takes as many steps, of as many views, as ConvMAE does in 4E.
    "fastconvmae_32": Method("FastConvMAE, E, batches of 32", "fastconvmae_tiny_96px", ("data.batch_size=32",), 1),
    "fastconvmae": Method("FastConvMAE, E", "fastconvmae_tiny_96px", (), 1),
    "convmae_4": Method("ConvMAE, 4E", "convmae_tiny_96px", (), 4),
    "mae_4": Method("MAE, 4E", "mae_tiny_96px", (), 4),
    "convmae": Method("ConvMAE, E", "convmae_tiny_96px", (), 1),
    "mor_ema": Method(
        "FastConvMAE, E, batches of 32, EMA beside pixels", "fastconvmae_tiny_mor_96px", ("data.batch_size=32",), 1
    ),
}


@dataclass
class Study:
    """What a study is made of."""

    data: Path
    work_dir: Path
    epochs: int
    finetune_epochs: list[int]
    per_class: int
    lr: float
    methods: list[str]
    device: str = "cpu"

    @property
    def minutes(self) -> str:
        """What the minutes are of that are counted."""
        return "minutes of processor time" if self.device == "cpu" else "minutes of a GPU"

    @property
    def measures(self) -> dict[str, str]:
        """The measures' titles by the folder that a run of each has."""
        return PROBES | {f"finetune_{epochs}": f"fine-tuned for {epochs} epochs" for epochs in self.finetune_epochs}

    def pretrain(self, name: str, seed: int) -> tuple[Path, list[str]]:
        """Returns where a method is pretrained and the tool's words."""
        method, folder = METHODS[name], self.work_dir / f"{name}_seed{seed}" / "pretrain"
        epochs = self.epochs * method.multiple
        options = [f"data.root={self.data / 'train'}", f"schedule.epochs={epochs}", f"schedule.warmup={epochs / 10:g}"]
        options += [f"optim.lr={self.lr:g}", *method.options]
        return folder, ["pretrain", "--config", f"{method.recipe}.yaml", *self._shared(folder, seed), *options]

    def probes(self, name: str, seed: int) -> list[tuple[Path, list[str]]]:
        """Returns where a method's features are probed and the tools' words."""
        folder, runs = self.work_dir / f"{name}_seed{seed}", []
        options = [f"data.root={self.data}", self._encoder(name, seed), f"model.features={folder / 'features'}"]
        for part, tool in (("knn", "knn"), ("linear", "linear_probe")):
            shared = self._shared(folder / part, seed)
            runs.append((folder / part, [tool, "--config", "probe_96px.yaml", *shared, *options]))
        return runs

    def finetune(self, name: str, epochs: int, seed: int) -> tuple[Path, list[str]]:
        """Returns where a method is fine-tuned, or the same is trained from scratch, and the tool's words."""
        options = ["optim.layer_decay=1.0"]
        if name != SCRATCH:
            arch = "vit" if METHODS[name].recipe.startswith("mae") else "convvit"
            options = [f"model.arch={arch}", self._encoder(name, seed)]
        folder = self.work_dir / f"{name}_seed{seed}" / f"finetune_{epochs}"
        schedule = [f"schedule.epochs={epochs}", f"schedule.warmup={epochs / 10:g}", "schedule.eval_every=0"]
        if self.per_class:
            schedule += [f"data.per_class={self.per_class}"]
        words = ["finetune", "--config", "finetune_tiny_96px.yaml", *self._shared(folder, seed)]
        return folder, [*words, f"data.root={self.data}", *options, *schedule]

    def _encoder(self, name: str, seed: int) -> str:
        return f"model.init={self.work_dir / f'{name}_seed{seed}' / 'pretrain' / 'encoder.pth'}"

    def _shared(self, folder: Path, seed: int) -> list[str]:
        return [
            "--work-dir",
            str(folder),
            "--cfg-options",
            f"runtime.seed={seed}",
            "data.workers=0",
            f"runtime.device={self.device}",
        ]


def run_all(study: Study, seeds: Sequence[int], jobs: int, devices: Sequence[str] = ()) -> None:
    """Does all runs, so many at a time, on the GPUs ``devices`` if there are any.

    First pretraining, then the probes, which are cheap, then fine-tuning.
    """
    pairs = [(name, seed) for seed in seeds for name in study.methods]
    names = [*study.methods, SCRATCH]
    waves = [
        [study.pretrain(*pair) for pair in pairs],
        [run for pair in pairs for run in study.probes(*pair)],
        [study.finetune(name, n, seed) for n in study.finetune_epochs for seed in seeds for name in names],
    ]
    for wave in waves:
        with closing(finish([Run(folder, tuple(words)) for folder, words in wave], jobs, devices)) as ended:
            for one in ended:
                if one.failure:
                    raise UserError(one.failure)
                print("finished:", one.run.folder, flush=True)


class Row(NamedTuple):
    """A line of the table: by seed, the minutes that pretraining took, and each measure's accuracy."""

    label: str
    minutes: dict[int, float]
    accuracies: dict[str, dict[int, float]]


def read_rows(study: Study, seeds: Sequence[int]) -> list[Row]:
    """Returns the lines of which something is finished."""
    lines = [(name, METHODS[name].label) for name in study.methods] + [(SCRATCH, "from scratch")]
    rows = []
    for name, label in lines:
        folders = {seed: study.work_dir / f"{name}_seed{seed}" for seed in seeds}
        minutes = {
            seed: (run.spent.processor if study.device == "cpu" else run.spent.clock) / 60
            for seed, folder in folders.items()
            if (run := Run(folder / "pretrain", ())).is_finished
        }
        found = {
            part: {
                seed: run.metrics["top1"]
                for seed, folder in folders.items()
                if (run := Run(folder / part, ())).is_finished
            }
            for part in study.measures
        }
        if minutes or any(found.values()):
            rows.append(Row(label, minutes, found))
    return rows


def with_spread(values: Collection[float], factor: float = 1) -> str:
    """Returns mean and sample deviation, times a factor, as text; one value alone has no deviation."""
    if not values:
        return ""
    mean = f"{factor * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {factor * statistics.stdev(values):.1f}"


def table(rows: Sequence[Row], measures: Mapping[str, str], minutes: str) -> str:
    """Returns the study as a table in Markdown; ``minutes`` says what these are of."""
    lines = [f"| pretraining | {minutes} | " + " | ".join(f"{name}, %" for name in measures.values()) + " |"]
    lines.append("| --- " * (2 + len(measures)) + "|")
    for row in rows:
        cells = [row.label, with_spread(row.minutes.values())]
        cells += [with_spread(row.accuracies[part].values(), 100) for part in measures]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], measures: Mapping[str, str], minutes: str, path: Path) -> None:
    """Draws each measure over the time of pretraining: a point a seed, scratch as a line across."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from convmae.reports.plots import LINE_COLOURS, STYLE

    taken = {part: title for part, title in measures.items() if any(row.accuracies[part] for row in rows)}
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * max(2, len(taken)), 4), layout="constrained")
        panels = figure.subplots(1, max(1, len(taken)), squeeze=False)[0]
        for panel, (part, title) in zip(panels, taken.items(), strict=False):
            for colour, row in zip(cycle(LINE_COLOURS), rows):
                values = {seed: 100 * value for seed, value in row.accuracies[part].items()}
                if values and row.minutes:
                    spent = [row.minutes[seed] for seed in values]
                    panel.scatter(spent, list(values.values()), s=50, color=colour, label=row.label)
                elif values:
                    panel.axhline(statistics.mean(values.values()), color=colour, linestyle="--", label=row.label)
            panel.set(title=title, xlabel=f"{minutes} in pretraining")
            panel.set_xlim(left=0)
        panels[0].set_ylabel("top-1 accuracy, %")
        handles = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with class folders in train and val, as imagenet_mini")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/study"), help="default work_dirs/study")
    parser.add_argument("--epochs", type=int, default=5, help="E, epochs of FastConvMAE (default 5)")
    parser.add_argument(
        "--finetune-epochs",
        type=int,
        nargs="+",
        default=[10],
        help="epochs of fine-tuning, and of training from scratch: each a column of the table (default 10)",
    )
    parser.add_argument(
        "--per-class",
        type=int,
        default=0,
        help="fine-tune on so many pictures of each class, in batches of 32 (default 0: on all)",
    )
    parser.add_argument("--lr", type=float, default=4e-4, help="learning rate of pretraining (default 4e-4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default 0")
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where it is computed; auto: on GPUs if there are",
    )
    parser.add_argument("--jobs", type=int, help="runs at a time (default: as many as there are GPUs, else cores)")
    parser.add_argument(
        "--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS), help="what to pretrain (default all)"
    )
    parser.add_argument("--only-report", action="store_true", help="write the table of what is finished, run nothing")
    args = parser.parse_args(argv)

    def run() -> None:
        data = place(args.data)
        for part in ("train", "val"):
            if not (data / part).is_dir():
                raise UserError(f"There is no folder {data / part}; expected class folders in train and val.")
        if min(1 if args.jobs is None else args.jobs, args.epochs, *args.finetune_epochs) < 1 or args.per_class < 0:
            raise UserError("--jobs, --epochs and --finetune-epochs must be 1 or more, --per-class 0 or more.")
        methods, seeds = list(dict.fromkeys(args.methods)), list(dict.fromkeys(args.seeds))
        lengths = list(dict.fromkeys(args.finetune_epochs))
        devices = gpus(args.device)
        device = "cuda" if devices else "cpu"
        study = Study(data, args.work_dir, args.epochs, lengths, args.per_class, args.lr, methods, device)
        if not args.only_report:
            run_all(study, seeds, args.jobs or len(devices) or os.cpu_count() or 1, devices)
        rows = read_rows(study, seeds)
        if not rows:
            raise UserError(f"Nothing in {args.work_dir} is finished yet.")
        written = table(rows, study.measures, study.minutes)
        (args.work_dir / "table.md").write_text(written, encoding="utf-8")
        draw(rows, study.measures, study.minutes, args.work_dir / "study.png")
        print(written + f"written: {args.work_dir / 'table.md'}, {args.work_dir / 'study.png'}")

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
