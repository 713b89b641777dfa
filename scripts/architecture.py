"""The structure of the package, measured from its own imports: a table, and the picture in docs/architecture.md.

`python scripts/architecture.py` prints files and lines of each folder, and writes `docs/figures/imports.svg`: a row a
folder, from the ground up, and an arc for each pair of folders of which one imports the other, in three widths. An arc
on the right points down, as all should; one on the left, in red, points up. The picture shows only what changes seldom
(lines in thousands), and says it once more in its description. `--package DIR` measures another checkout's.
"""

import argparse
import ast
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "figures" / "imports.svg"


def main() -> None:
    """Print the table; draw the picture unless only another checkout is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "pwl_lab", help="the package's folder")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where the picture goes")
    given = parser.parse_args()
    files, lines = sizes(given.package)
    edges = imports(given.package)
    order = from_the_ground_up(set(files), edges)
    for folder in reversed(order):
        print(f"{folder:<14}{files[folder]:>4} files{lines[folder]:>7,} lines")
    print(f"{'together':<14}{sum(files.values()):>4} files{sum(lines.values()):>7,} lines")
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(order) + 0.6), layout="constrained")
    draw(axes, order, edges, lines)
    plt.rcParams["svg.hashsalt"] = "pwl_lab"  # the same picture has the same bytes
    figure.savefig(given.out, metadata={"Date": None, "Description": described(order, edges, lines)})


def folder_of(parts: tuple[str, ...]) -> str:
    """The folder of the package that a module belongs to; a module at its top stands for itself."""
    return parts[0].removesuffix(".py") if parts else "pwl_lab"


def sizes(package: Path) -> tuple[Counter[str], Counter[str]]:
    """Files and lines of each folder."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        folder = folder_of(path.relative_to(package).parts)
        if folder != "__init__":
            files[folder] += 1
            lines[folder] += len(path.read_text(encoding="utf-8").splitlines())
    return files, lines


def imports(package: Path) -> Counter[tuple[str, str]]:
    """How many imports lead from a folder to another, late ones within functions included."""
    edges: Counter[tuple[str, str]] = Counter()
    for path in package.rglob("*.py"):
        folder = folder_of(path.relative_to(package).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                inner = tuple(node.module.split(".")[1:])
                for target in [folder_of(inner)] if inner else [alias.name for alias in node.names]:
                    if target != folder and folder != "__init__" and not target.startswith("_"):
                        edges[folder, target] += 1
    return edges


def from_the_ground_up(folders: set[str], edges: Counter[tuple[str, str]]) -> list[str]:
    """The folders so that each stands above what it imports; where that cannot be, the one that imports least first."""
    order: list[str] = []
    while len(order) < len(folders):
        left = folders - set(order)

        def missing(folder: str, left: set[str] = left) -> tuple[int, str]:
            return sum(count for (a, b), count in edges.items() if a == folder and b in left), folder

        order.append(min(left, key=missing))
    return order


def size(n_lines: int) -> str:
    """Lines, roughly: 5,213 are `5 k lines`."""
    return f"{round(n_lines, -3) // 1_000} k lines" if n_lines >= 500 else "under 500 lines"


def width(n_imports: int) -> int:
    """1 for up to three imports, 2 for up to fifteen, 3 for more."""
    return 1 + (n_imports > 3) + (n_imports > 15)


def described(order: list[str], edges: Counter[tuple[str, str]], lines: Counter[str]) -> str:
    """What the picture shows, in words: a line a folder, from the top down, with what it imports and how wide the arc is."""
    return "\n".join(
        f"{folder} ({size(lines[folder])}): "
        + ", ".join(f"{target} {width(edges[folder, target])}" for target in order if edges[folder, target])
        for folder in reversed(order)
    )


def draw(axes: Axes, order: list[str], edges: Counter[tuple[str, str]], lines: Counter[str]) -> None:
    """A box for each folder, an arc for each pair."""
    height = {folder: place for place, folder in enumerate(order)}
    for folder, place in height.items():
        label = f"{folder}\n{size(lines[folder])}"
        box = {"boxstyle": "round,pad=0.25", "facecolor": "#eef3f8", "edgecolor": "#5b7083"}
        axes.text(0, place, label, ha="center", va="center", fontsize=7.5, linespacing=1.15, bbox=box, zorder=3)
    for (source, target), count in sorted(edges.items()):
        if source not in height or target not in height:
            continue
        down = height[source] > height[target]
        side, colour = (1, "#3b6ea5") if down else (-1, "#c0392b")
        arc = FancyArrowPatch(
            (0.62 * side, height[source]),
            (0.62 * side, height[target]),
            connectionstyle="arc3,rad=-0.5",
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=(0.6, 1.4, 2.6)[width(count) - 1],
            color=colour,
            alpha=0.55,
        )
        axes.add_patch(arc)
    upwards = any(height[source] < height[target] for source, target in edges if {source, target} <= height.keys())
    axes.set_xlim(-4 if upwards else -1.2, 4)
    axes.set_ylim(-0.8, len(order) - 0.2)
    axes.axis("off")


if __name__ == "__main__":
    main()
