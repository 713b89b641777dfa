"""The command `pwl-lab`.

Exit codes: 0 success, 1 something ran and failed, 2 refused before it ran, 3 stopped by `--stop-after`.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

import pwl_lab
from pwl_lab.support import environment
from pwl_lab.support.errors import PwlLabError, invalid

if TYPE_CHECKING:  # the runner is imported late, so that --help stays fast
    from pwl_lab.runner.run_folder import RunStatus

FAILED, REFUSED, STOPPED = 1, 2, 3
GO_ON = "the time is up; run the same command again to go on"


class Commands(TyperGroup):
    """The commands. Each of the project's own errors becomes a message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except PwlLabError as error:
            typer.echo(f"pwl-lab: {error}", err=True)
            raise typer.Exit(REFUSED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run and inspect the notebooks.",
)
data_app = typer.Typer(no_args_is_help=True, help="The datasets.")
app.add_typer(data_app, name="data")

Notebook = Annotated[str, typer.Argument(help="a file, a name in notebooks/, its number (04, or 4), or how it begins")]
Preset = Annotated[str | None, typer.Option(help="smoke, lesson or paper; default: the notebook's own")]
StopAfter = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="end after this time (8m, 90s, 1h30m) with exit code 3; the same command goes on from the trainings' checkpoints",
    ),
]
Timeout = Annotated[int | None, typer.Option(min=1, metavar="SECONDS", help="the time limit for each cell")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Progressive weight loading and extracted-curriculum distillation, as notebooks."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"pwl-lab {installed(pwl_lab.__name__)}")
        raise typer.Exit
    environment.settled()  # relative paths are relative to this folder


@app.command()
def run(
    notebook: Notebook,
    out: Annotated[str | None, typer.Option(help="the output folder; default: runs/NOTEBOOK")] = None,
    preset: Preset = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="a parameter; the value is YAML")
    ] = None,
    timeout: Timeout = None,
    stop_after: StopAfter = None,
) -> None:
    """Execute one notebook and report how it ended."""
    _limit(stop_after)
    from pwl_lab.runner.execute import run_notebook
    from pwl_lab.runner.parameters import parse_parameters
    from pwl_lab.runner.series import usual_folder

    if out is None:
        out = str(usual_folder(notebook))
        _progress(f"output goes to {out}")
    status = run_notebook(notebook, out, preset, parse_parameters(param or ()), timeout, _progress)
    _report(status)
    typer.echo(f"{out}", err=status.status != "ok")
    _exit([status])


@app.command()
def params(
    notebook: Notebook,
    preset: Preset = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """List a notebook's parameters with type, default and range."""
    from pwl_lab.runner.parameters import describe_parameters, read_notebook, resolve_notebook

    rows = describe_parameters(read_notebook(resolve_notebook(notebook)), preset)
    if as_json:
        typer.echo(json.dumps(rows, indent=2, default=str))
        return
    lines = [(row["name"], _cell(row["default"]), row["range"] or row["type"], row["description"]) for row in rows]
    _table([("name", "default", "range", "description"), *lines])


@app.command()
def series(
    preset: Annotated[str, typer.Option(help="smoke, lesson or paper")] = "lesson",
    name: Annotated[str | None, typer.Option(help="the folder in the runs folder; default: the preset")] = None,
    only: Annotated[list[str] | None, typer.Option(help="only these notebooks: 02, or 02,04")] = None,
    timeout: Timeout = None,
    jobs: Annotated[
        int | None,
        typer.Option("-j", "--jobs", help="how many notebooks run at once; default: one per core (one with a GPU)"),
    ] = None,
    stop_after: StopAfter = None,
) -> None:
    """Execute the series, write an index page, and show where the time went; it continues after a failure."""
    _limit(stop_after)
    from pwl_lab.runner.series import run_series, series_folder, timing_table

    ended = run_series(preset, name, only or (), timeout, _progress, _report, jobs)
    _table(timing_table(ended))
    typer.echo(series_folder(preset if name is None else name) / "index.html")
    _exit(ended)


@app.command()
def slides(
    name: Annotated[str, typer.Option(help="the series run to show")] = "lesson",
    reveal: Annotated[
        Path | None, typer.Option(help="a folder with reveal.js or its archive; default: download it once")
    ] = None,
) -> None:
    """Make slides from a series run: one page of all cells with a slide type, which needs no network."""
    from pwl_lab.runner.series import series_folder
    from pwl_lab.runner.slides import write_slides

    typer.echo(write_slides(series_folder(name), reveal))


@app.command()
def site(name: Annotated[str, typer.Option(help="the series run to show")] = "lesson") -> None:
    """Build one site of a series run, the documents and an API reference, with search; it needs no network."""
    from pwl_lab.runner.series import series_folder
    from pwl_lab.runner.site import write_site

    typer.echo(write_site(series_folder(name)))


@app.command()
def batch(
    grid: Annotated[Path, typer.Argument(help="the grid file (YAML); examples are in presets/grids/")],
    out: Annotated[str, typer.Option(help="a folder, or s3://bucket/prefix; run the same command again to resume")],
    workers: Annotated[
        int | None,
        typer.Option(help="processes on this machine; default: one per core (one in all with a GPU)", metavar="N"),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="use a Dask scheduler instead: tcp://HOST:PORT")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the points and an estimate, run nothing")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run only points that failed before")] = False,
    force: Annotated[bool, typer.Option("--force", help="also run points that are ok already")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="only some points: the first digits of a hash, or NAME=VALUE of an axis")
    ] = None,
    stop_after: StopAfter = None,
) -> None:
    """Run a notebook over a grid of parameters: points that are ok are kept, the others run."""
    if stop_after is not None and scheduler is not None:
        raise invalid("--stop-after", stop_after, "none with a scheduler, whose workers do not know of it")
    _limit(stop_after)
    from pwl_lab.runner import batch as batches
    from pwl_lab.runner.machine import default_workers

    batches.check_workers(workers, scheduler)
    prepared = batches.prepare(grid, out, only or (), retry_failed, force)
    many = None if scheduler is not None else workers or default_workers(prepared.plan)
    if dry_run:
        typer.echo("\n".join(prepared.lines(many)))
        return
    typer.echo(prepared.headline(many), err=True)
    outcome = batches.run_batch(
        prepared, workers, scheduler, force, batches.Reporter(len(prepared.todo), _progress), _progress
    )
    how = batches.describe_batch(out)
    if outcome and outcome.stopped_by:
        typer.echo(f"stopped ({outcome.stopped_by}); run the same command again to resume", err=True)
    typer.echo(f"{out}: {how}")
    if outcome and not outcome.all_well(prepared.todo):
        not_begun = len(outcome.ended) < len(prepared.todo) and environment.seconds_left() <= 0
        _exit(list(outcome.ended.values()), not_begun)
        raise typer.Exit(FAILED)


@app.command()
def status(
    out: Annotated[str, typer.Argument(help="the batch's folder, or its address")],
    as_json: Annotated[bool, typer.Option("--json", help="show every point, as JSON")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="update every few seconds while the batch runs")] = False,
) -> None:
    """Show the status of a batch."""
    from pwl_lab.runner.batch import read_states, watch_batch

    if as_json:
        typer.echo(json.dumps([state.as_json() for state in read_states(out)], indent=1))
        return
    for lines in watch_batch(out, watch):
        if watch and _is_terminal():
            typer.echo("\x1b[2J\x1b[H", nl=False)  # clear the terminal
        typer.echo("\n".join(lines))


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(help="the folder of a bundle (with an index.json)")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="the port to listen on; 0 picks a free one")] = 0,
    megabytes_per_s: Annotated[
        float | None, typer.Option(help="simulate a link of this bandwidth (10^6 bytes)")
    ] = None,
    latency_ms: Annotated[float, typer.Option(help="simulate a link with this latency per file")] = 0.0,
) -> None:
    """Serve a bundle to programs on this machine, until Ctrl-C."""

    def show(url: str) -> None:
        typer.echo(f"{bundle} is at {url} ({throttle}). Press Ctrl-C to stop.")
        typer.echo(f'Open it with ProgressiveModel.open("{url}").')

    from pwl_lab.loading.server import serve as serve_bundle
    from pwl_lab.loading.throttle import Throttle

    throttle = Throttle(megabytes_per_s, latency_ms / 1000)
    serve_bundle(bundle, port, throttle, show)


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="the folder of a bundle of images (with an index.json)")],
    out: Annotated[Path, typer.Option(help="the folder to write; a page that is there already gets another network")],
    to: Annotated[
        Literal["web", "onnx"], typer.Option(help="web: a page on which the network loads; onnx: the units alone")
    ] = "web",
    name: Annotated[str, typer.Option(help="the network's name in the page's menu (only with --to web)")] = "network",
) -> None:
    """Write a bundle's units as ONNX, for other runtimes, or as a page on which the network loads in the browser."""
    if to == "onnx":
        from pwl_lab.loading.onnx_units import write_units

        write_units(bundle, out)
    else:
        from pwl_lab.widgets.web_page import write_page

        write_page(bundle, out, name)
    typer.echo(out)


@app.command()
def web(preset: Annotated[str, typer.Option(help="smoke, lesson or paper")] = "lesson") -> None:
    """Write a page on which the stored pairs of notebook 04 load in the browser; show its folder. Nothing is trained."""
    from pwl_lab.support import paths
    from pwl_lab.widgets.web_page import FAMILIES, write_stored_pairs

    missing = write_stored_pairs(preset, paths.web_page())
    if missing.commands:
        typer.echo(repr(missing), err=True)
    if len(missing.commands) == len(FAMILIES):
        raise typer.Exit(FAILED)
    typer.echo(paths.web_page())


@app.command()
def dashboard(
    preset: Preset = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="the port to listen on")] = 8866,
) -> None:
    """Serve the dashboard of stored results to browsers on this machine, until Ctrl-C; nothing is trained."""
    from pwl_lab.runner.dashboard import serve as serve_dashboard

    typer.echo("Open the address (with its token) below 'running at'. Press Ctrl-C to stop.")
    serve_dashboard(preset, port)


@data_app.command(name="list")
def list_data() -> None:
    """List the datasets: their content and where they come from."""
    from pwl_lab.tasks.datasets import DATASETS

    rows: list[tuple[str, ...]] = [("name", "images", "classes", "train", "validation", "test", "from")]
    for name, entry in DATASETS.items():
        channels, height, width = entry.image_shape
        images = f"{height}x{width} {'grey' if channels == 1 else 'colour'}"
        sizes = (f"{size:,}" for size in entry.sizes.values())
        rows.append((name, images, str(len(entry.class_names)), *sizes, entry.files.origin))
    _table(rows)


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="which dataset")],
    folder: Annotated[Path | None, typer.Option(help="a folder that already has the files or their archive")] = None,
) -> None:
    """Make a dataset available (download it if needed), check its files, and show where they are."""
    from pwl_lab.tasks.datasets import fetch as fetch_images

    typer.echo(fetch_images(name, folder=folder))


def _table(lines: Sequence[Sequence[str]]) -> None:
    """Print cells in columns, folded to the width of a terminal; one line per row if the output is not a terminal."""
    from rich.console import Console
    from rich.table import Column, Table

    width = shutil.get_terminal_size().columns if _is_terminal() else 10_000
    first, *others = lines[0]
    columns = [Column(first, no_wrap=True), *(Column(name, overflow="fold") for name in others)]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for line in lines[1:]:
        table.add_row(*line)
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as shown:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in shown.get().splitlines()))


def _is_terminal() -> bool:
    """Whether the output goes to a terminal."""
    return sys.stdout.isatty()


def _cell(value: object) -> str:
    """A table cell; a default value as it would be given to -p."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _progress(line: str) -> None:
    """Print a progress line to stderr."""
    typer.echo(line, err=True)


def _limit(stop_after: str | None) -> None:
    """Set the time at which trainings stop."""
    if stop_after is not None:
        environment.stop_after(stop_after)


def _exit(statuses: "Sequence[RunStatus]", not_begun: bool = False) -> None:
    """Exit unless all went well: with FAILED if any went badly, with STOPPED if the time was up, as it is if `not_begun`."""
    ends = {status.status for status in statuses}
    if ends - {"ok", "stopped"}:
        raise typer.Exit(FAILED)
    if "stopped" in ends or not_begun:
        typer.echo(GO_ON, err=True)
        raise typer.Exit(STOPPED)


def _report(status: "RunStatus") -> None:
    """One line for a successful run; a few on stderr for a failed one, or if its page is incomplete."""
    if status.page_error:
        typer.echo(status.page_error, err=True)
    if status.status == "ok":
        typer.echo(f"ok: {status.notebook} in {status.seconds:.0f} s")
        return
    where = "" if status.cell is None else f", cell {status.cell}"
    typer.echo(f"{status.status}: {status.notebook}{where}", err=True)
    if status.cell_source and status.status != "stopped":
        typer.echo("    " + status.cell_source.replace("\n", "\n    "), err=True)
    if status.error:
        typer.echo(f"{status.error.name}: {status.error.message}", err=True)
