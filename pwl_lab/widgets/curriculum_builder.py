"""Build a curriculum from stages, train it, and compare it with those of the paper.

It trains only after *Train* is pressed. A page without a kernel offers a choice of a few curricula that were trained in
advance.
"""

import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import ipywidgets as controls

from pwl_lab import plots
from pwl_lab.distill.curriculum import Curriculum, Labels, Stage, Target, TeacherHidden, TeacherOutput
from pwl_lab.plots import live
from pwl_lab.study.recipes import Workbench
from pwl_lab.study.results import DistillationRuns
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.progress import Row, shown_by
from pwl_lab.widgets.frames import ROW, Choice, Frame, FramePage, FrameTable, Key, png, status_line

MOST_STAGES = 6
REACHED = 0.99  # the accuracy that counts as learned
LABELS, OUTPUT, HIDDEN = "the labels", "final output", "hidden layer, projected"
OWN, CHOSEN = "yours", "chosen"  # the names of what the reader builds, and of what a page offers
NEEDS_KERNEL = "These were trained in advance. To build your own, open the notebook in JupyterLab or VS Code."


class StoppedError(PwlLabError):
    """The reader pressed *Stop*."""


def curriculum_builder(bench: Workbench, interactive: bool = True) -> "CurriculumBuilder | FramePage":
    """Choose stages and lengths, train three students, and compare them with one-shot and extracted.

    Arguments:
    - `bench`: the task, its teacher, and the runs to compare with.
    - `interactive`: a live widget; otherwise a choice of curricula that are trained now, for a page without a kernel.
    """
    return CurriculumBuilder(bench) if interactive else _page(bench)


def targets_of(bench: Workbench) -> dict[str, Target]:
    """What a stage can show, by its words in the menu: among them the teacher's checkpoints with their accuracies.

    The teacher shows hard decisions: its temperature is 0.
    """
    steps = {
        f"checkpoint step {one.step:,}: {one.accuracy:.0%} accurate": TeacherOutput(temperature=0.0, at_step=one.step)
        for one in bench.teacher.checkpoints
    }
    return {LABELS: Labels(), **steps, HIDDEN: TeacherHidden(block=1), OUTPUT: TeacherOutput(temperature=0.0)}


class StageRow(controls.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """One stage: its target, its length, and an error if it is invalid."""

    def __init__(
        self, number: int, targets: Sequence[str], target: str, steps: int, remove: Callable[["StageRow"], None]
    ) -> None:
        """`remove` is called with this row when its button is pressed."""
        narrow, wide = {"description_width": "initial"}, {"width": "min(360px, calc(100% - 4px))"}
        self.target = controls.Dropdown(options=targets, value=target, description=f"Stage {number}: show", style=narrow,
                                        tooltip="what the student is shown", layout=wide)  # fmt: skip
        self.steps = controls.IntText(value=steps, description="for steps", style=narrow, tooltip="length in steps",
                                      layout={"width": "160px"})  # fmt: skip
        self.rest = controls.HTML()
        self.remove = controls.Button(description=f"Remove stage {number}", layout={"width": "max-content"})
        self.error = controls.HTML()
        self.remove.on_click(lambda _: remove(self))
        super().__init__([controls.HBox([self.target, self.steps, self.rest, self.remove], layout=ROW), self.error])

    def turn(self, number: int, last: bool, only: bool) -> None:
        """Number the row: the last stage lasts until the end, and a single one cannot be removed."""
        self.target.description, self.remove.description = f"Stage {number}: show", f"Remove stage {number}"
        self.steps.layout.display = "none" if last else None
        self.remove.disabled = only
        self.rest.value = "until the end" if last else ""


class CurriculumBuilder(controls.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Stages to choose, *Train* and *Stop*, and curves that grow while three students learn."""

    def __init__(self, bench: Workbench) -> None:
        """Starts with the two stages of the extracted curriculum, which the reader can change."""
        self.bench = bench
        self._targets, self._rows = targets_of(bench), controls.VBox()
        self.more = self._button("Add a stage", "add a stage at the end", self._add)
        self.train = self._button("Train", "train three students with these stages", self._begin, "primary")
        self.stop = self._button("Stop", "stop the training", self._end)
        self.stop.disabled = True
        self.words, self.chart = controls.HTML(), controls.HTML()
        self.mine: live.Curves = {}
        self.before: live.Curves = {}
        self._behind = {name: curves_of(bench.built_in, name) for name in bench.known}
        self._marks: list[int] = []
        self._stopping, self._redraws = threading.Event(), live.Redraws()
        self.thread: threading.Thread | None = None
        self._training = False
        buttons = controls.HBox([self.more, self.train, self.stop], layout=ROW)
        super().__init__([self._rows, buttons, self.words, self.chart])
        for target in (HIDDEN, OUTPUT):
            self._append(target)
        self._say("Choose what the students are shown, then press Train.")
        self._draw()

    @staticmethod
    def _button(words: str, tooltip: str, press: Callable[[], None], kind: str = "") -> controls.Button:
        """A button that calls `press`."""
        button = controls.Button(description=words, tooltip=tooltip, button_style=kind)
        button.on_click(lambda _: press())
        return button

    @property
    def stages(self) -> list[StageRow]:
        """The rows, from the first stage to the last."""
        return list(self._rows.children)

    def _append(self, target: str) -> None:
        """Add a row."""
        row = StageRow(len(self.stages) + 1, list(self._targets), target, self.bench.stage_steps, self._remove)
        for control in (row.target, row.steps):
            control.observe(lambda _: self.curriculum(), names="value")
        self._place([*self.stages, row])

    def _add(self) -> None:
        """The *Add* button: adds a stage on the final output, which the reader can change."""
        if len(self.stages) < MOST_STAGES:
            self._append(OUTPUT)

    def _remove(self, row: StageRow) -> None:
        """The *Remove* button of a row."""
        if len(self.stages) > 1:
            self._place([one for one in self.stages if one is not row])

    def _place(self, rows: list[StageRow]) -> None:
        """Show these rows in order."""
        for number, row in enumerate(rows, start=1):
            row.turn(number, last=number == len(rows), only=len(rows) == 1)
        self._rows.children = rows
        self.curriculum()

    def curriculum(self) -> Curriculum | None:
        """The curriculum chosen; None if a length is invalid, which is shown beside it and disables *Train*."""
        stages: list[Stage] = []
        taken, rows = 0, self.stages
        for row in rows:
            last, steps = row is rows[-1], int(row.steps.value)
            taken += 0 if last else steps
            error = "" if last else self._wrong(steps, taken)
            row.error.value = f"<span role='alert' style='color: #B00020'>{html.escape(error)}</span>" if error else ""
            if not error:
                stages.append(Stage(target=self._targets[row.target.value], steps=None if last else steps))
        right = len(stages) == len(rows)
        self.train.disabled = not right or self._training
        self.more.disabled = len(rows) >= MOST_STAGES
        return Curriculum(stages=tuple(stages)) if right else None

    def _wrong(self, steps: int, taken: int) -> str:
        """The error for a stage of `steps` steps, if any, when the stages up to it take `taken`."""
        if steps < 1:
            return "A stage needs at least 1 step. To leave it out, remove it."
        if taken >= self.bench.plan.steps:
            return f"The stages up to here take {taken:,} of {self.bench.plan.steps:,} steps: none is left for the last stage."
        return ""

    def _begin(self) -> None:
        """The *Train* button: trains in a separate thread, so that the kernel can react to the *Stop* button."""
        curriculum = self.curriculum()
        if curriculum is None or self._training:
            return
        self.before, self.mine = self.mine or self.before, {}
        self._marks = [start for start in curriculum.starts() if start]
        self._stopping.clear()
        self._training = self.train.disabled = True
        self.stop.disabled = False
        self._say("Training ...")
        self.thread = threading.Thread(target=self._work, args=(curriculum,), daemon=True)
        self.thread.start()

    def _end(self) -> None:
        """The *Stop* button: the training ends at its next evaluation."""
        self._stopping.set()

    def _work(self, curriculum: Curriculum) -> None:
        """Train, and report the result."""
        try:
            with shown_by(self):
                runs = self.bench.train({OWN: curriculum})
            self.mine = curves_of(runs, OWN)
            self._say(outcome(self.bench, runs, OWN))
        except StoppedError:
            self._say("Stopped. This training is not kept.")
        except Exception as error:
            self._say(f"The training failed: {error}")
            raise
        finally:
            self._training, self.stop.disabled = False, True
            self.curriculum()
            self._draw()

    def add(self, rows: Sequence[Row], run: str) -> None:
        """Add an evaluation of the students in training, and draw when it is time. Raises StoppedError after *Stop*."""
        if self._stopping.is_set():
            raise StoppedError("stopped by the reader")
        for row in rows:
            self.mine.setdefault(int(row["seed"]), []).append((row["step"], row["accuracy"]))
        self._redraws.draw(self._draw)

    def _say(self, words: str) -> None:
        """Show text above the curves."""
        self.words.value = status_line(words)

    def _draw(self) -> None:
        """Draw the curves so far."""
        self.chart.value = live.own_chart(self._behind, self.before, self.mine, self._marks, self.bench.plan.steps)


def curves_of(runs: DistillationRuns, name: str) -> live.Curves:
    """Each seed's accuracy by step."""
    rows = runs.history[runs.history["curriculum"] == name]
    return {
        int(seed): list(zip(mine["step"], mine["accuracy"], strict=True))
        for seed, mine in rows.groupby("seed", sort=False)
    }


def outcome(bench: Workbench, runs: DistillationRuns, name: str) -> str:
    """The steps to the threshold, for a curriculum's students and those it is compared with."""
    steps = runs.steps_to(REACHED) | {other: bench.built_in.steps_to(REACHED)[other] for other in bench.known}
    said = [f"{one.replace('_', '-')} {_steps_words(steps[one])}" for one in (name, *bench.known)]
    return f"Steps to {REACHED:.0%}, one number for each seed: {'; '.join(said)}. Budget: {bench.plan.steps:,} steps."


def _steps_words(steps: Sequence[int | None]) -> str:
    """Steps by seed."""
    return ", ".join("not reached" if one is None else f"{one:,}" for one in steps)


def examples(bench: Workbench) -> dict[str, Curriculum]:
    """A few curricula, by description, for a page without a kernel."""
    steps = bench.stage_steps
    labels, hidden, output = Labels(), TeacherHidden(block=1), TeacherOutput(temperature=0.0)

    def two(first: Target, length: int, then: Target) -> Curriculum:
        return Curriculum(stages=(Stage(target=first, steps=length), Stage(target=then)))

    near = sorted(bench.teacher.checkpoints, key=lambda one: abs(one.accuracy - 0.6))  # a small teacher may skip 60%
    early = {
        f"checkpoint at {one.accuracy:.0%} for {steps} steps, then the output": two(
            TeacherOutput(temperature=0.0, at_step=one.step), steps, output
        )
        for one in near[:1]  # none, if the teacher has no checkpoints
    }
    brief = max(1, steps // 6)
    return {
        f"hidden layer for {steps} steps, then the output": two(hidden, steps, output),
        f"hidden layer for {brief} steps, then the output": two(hidden, brief, output),
        **early,
        f"labels for {steps} steps, then the output": two(labels, steps, output),
        f"hidden layer for {steps} steps, then the labels": two(hidden, steps, labels),
        "hidden layer until the end": Curriculum(stages=(Stage(target=hidden),)),
    }


def _page(bench: Workbench) -> FramePage:
    """A menu of trained curricula, each compared with those of the paper."""
    chosen = examples(bench)
    runs = bench.train(bench.known | chosen)
    frames: dict[Key, Frame] = {}
    for words in chosen:
        names = [*bench.known, words]
        part = replace(
            runs,
            history=runs.history[runs.history["curriculum"].isin(names)].replace({"curriculum": {words: CHOSEN}}),
            stages=runs.stages[runs.stages["curriculum"].isin(names)].replace({"curriculum": {words: CHOSEN}}),
        )
        frames[(words,)] = Frame(
            png(plots.learning_curves(part, REACHED)), f"{outcome(bench, part, CHOSEN)}\n{NEEDS_KERNEL}"
        )
    choice = Choice("Curriculum", "what the students are shown", list(chosen), menu=True)
    return FramePage(FrameTable((choice,), frames))
