"""The user's own configuration of matplotlib, IPython and pandas: it neither breaks nor changes what the study shows."""

import ast
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

import pwl_lab
from pwl_lab.plots.style import context, row_of_axes
from pwl_lab.runner.execute import run_notebook
from pwl_lab.widgets.frames import Painter, png

HOSTILE = {
    "text.usetex": [True],
    "font.family": [["No Such Font"], ["monospace"]],
    "font.sans-serif": [["No Such Font"]],
    "font.size": [3.0, 40.0],
    "axes.facecolor": ["black"],
    "axes.edgecolor": ["red"],
    "axes.grid": [False],
    "axes.grid.which": ["both"],
    "axes.unicode_minus": [False],
    "axes.formatter.limits": [[0, 0]],
    "axes.formatter.useoffset": [False],
    "axes.formatter.use_mathtext": [True],
    "axes.xmargin": [0.4],
    "axes.titlesize": ["xx-large"],
    "figure.facecolor": ["black"],
    "figure.dpi": [20.0],
    "figure.autolayout": [True],
    "figure.constrained_layout.use": [False],
    "figure.constrained_layout.h_pad": [0.5],
    "lines.linewidth": [12.0],
    "lines.antialiased": [False],
    "patch.antialiased": [False],
    "text.antialiased": [False],
    "text.color": ["yellow"],
    "text.hinting": ["none"],
    "text.parse_math": [False],
    "xtick.color": ["yellow"],
    "xtick.major.size": [30.0],
    "xtick.minor.visible": [True],
    "xtick.labelsize": [30.0],
    "ytick.direction": ["in"],
    "grid.linewidth": [9.0],
    "legend.frameon": [True],
    "legend.fontsize": [30.0],
    "image.cmap": ["jet"],
    "image.interpolation": ["bicubic"],
    "path.simplify": [False],
    "path.sketch": [(3.0, 100.0, 2.0)],
    "savefig.facecolor": ["black"],
    "mathtext.fontset": ["stix"],
}
CHOICES = st.lists(st.sampled_from(sorted(HOSTILE)), min_size=1, max_size=6, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(HOSTILE[name]) for name in names})
)


def picture(with_painter: bool = False) -> bytes:
    """A figure as the study makes them, drawn after its style was left, as a notebook and a widget draw it."""
    with context():
        figure, (left, right) = row_of_axes(5, 2.5, 2)
        line = left.plot([0, 1e5], [-0.5, 1], "o--", label="$x^2$")[0]
        left.legend()
        left.set(title="Title", xlabel="steps")
        figure.colorbar(right.imshow(np.arange(12.0).reshape(3, 4)))
    if with_painter:
        figure.set_layout_engine("none")
        return Painter(figure, [line]).png([line])
    return png(figure)


@pytest.fixture(scope="module")
def plain() -> list[bytes]:
    return [picture(), picture(with_painter=True)]


@settings(max_examples=25)
@given(CHOICES)
@example({name: values[0] for name, values in HOSTILE.items()})
def test_no_configuration_of_matplotlib_changes_a_figure(plain: list[bytes], chosen: dict) -> None:
    with mpl.rc_context(chosen):
        assert [picture(), picture(with_painter=True)] == plain
        assert {name: mpl.rcParams[name] for name in chosen} == chosen, "the user's own figures keep it"


def test_every_figure_of_the_package_is_one_that_keeps_the_style() -> None:
    """No module but the style's own makes matplotlib's plain Figure, or one of pyplot's."""
    folder = Path(pwl_lab.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        plain = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and node.module in ("matplotlib.figure", "matplotlib.pyplot", "matplotlib")
            for alias in node.names
        }
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not plain & called & {"Figure", "figure", "subplots"}, path
        assert "pyplot" not in path.read_text(encoding="utf-8").replace("pyplot's", ""), path


def test_measures_and_files_are_in_the_study_s_style_too(tmp_path: Path) -> None:
    def made(name: str) -> tuple[list[float], bytes]:
        figure, (axes,) = row_of_axes(3, 2)
        FigureCanvasAgg(figure)
        axes.plot([1, 2])
        figure.savefig(tmp_path / name, bbox_inches="tight")
        return list(figure.get_tightbbox().bounds), (tmp_path / name).read_bytes()

    with context():
        expected = made("a.png")
    with context(), mpl.rc_context():
        figure, (axes,) = row_of_axes(3, 2)
        axes.plot([1, 2])
    with mpl.rc_context({"text.usetex": True, "xtick.labelsize": 40, "savefig.pad_inches": 3}):
        FigureCanvasAgg(figure)
        figure.savefig(tmp_path / "b.png", bbox_inches="tight")
        assert list(figure.get_tightbbox().bounds) == expected[0]
        assert (tmp_path / "b.png").read_bytes() == expected[1]


SHOWN = """
import matplotlib as mpl, pandas as pd, os
from IPython import get_ipython
print(mpl.rcParams["text.usetex"], mpl.rcParams["font.family"], pd.get_option("display.max_rows"))
print(get_ipython().ast_node_interactivity, "started" in globals(), os.environ.get("STARTED"))
1
2
"""


def test_a_run_knows_nothing_of_the_user_s_ipython_matplotlib_and_start_up_files(
    write_notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    startup = home / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    config = home / ".ipython" / "profile_default" / "ipython_config.py"
    start = "import os\nos.environ['STARTED'] = 'yes'\nimport pandas\npandas.set_option('display.max_rows', 3)\nstarted = 1\n"
    config.write_text(
        "c.InteractiveShell.ast_node_interactivity = 'all'\nc.InteractiveShellApp.exec_lines = ['started = 2', '1 / 0']\n"
        "c.InteractiveShellApp.extensions = ['no_such_extension']\n"
    )
    (config.parent / "ipython_kernel_config.py").write_text(config.read_text())
    (startup / "00.py").write_text(start)
    (home / "start.py").write_text(start)
    (home / "matplotlibrc").write_text("text.usetex: True\nfont.family: No Such Font\n")
    (home / ".config" / "matplotlib").mkdir(parents=True)
    (home / ".config" / "matplotlib" / "matplotlibrc").write_text("text.usetex: True\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("IPYTHONDIR", str(home / ".ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(home / "start.py"))
    monkeypatch.setenv("MATPLOTLIBRC", str(home / "matplotlibrc"))
    status = run_notebook(write_notebook(SHOWN), tmp_path / "out")
    assert status.status == "ok", status.error
    outputs = nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4).cells[0].outputs
    assert outputs[0].text == "False ['sans-serif'] 60\nlast_expr False None\n"
    assert [output.output_type for output in outputs] == ["stream", "execute_result"]
