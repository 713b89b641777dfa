"""A control over a table of frames that needs no kernel and no network: plain HTML with its pictures inside.

It works in an exported page and in a trusted notebook. Where scripts are not allowed (a notebook that is not trusted,
a viewer that strips them) the first frame's picture and words remain: the controls are made by the script itself.
"""

import html
import json
from base64 import b64encode

from pwl_lab.widgets.frames import FrameTable

PLAY_MS = 1200  # so long a state stays while a choice plays
# Controls, words and picture fit a projector's window together; in a low one the picture stays large enough to read.
PICTURE_HEIGHT = "max(14rem, calc(100vh - 15rem))"
PICTURE_NAME = "the state described above"  # the words are read already: the picture's name does not repeat them
STYLE = """
.frame-page { margin: .4rem 0; }
.frame-page .choices { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; align-items: center; }
.frame-page .choice { display: flex; gap: .5rem; align-items: center; flex-wrap: wrap; }
.frame-page label { display: flex; gap: .5rem; align-items: center; flex-wrap: wrap; }
.frame-page input[type=range] { width: 15rem; max-width: 100%; }
.frame-page .value { min-width: 2.5em; font-variant-numeric: tabular-nums; }
.frame-page .frame-words { margin: .5rem 0; white-space: pre-line; }
.frame-page img { max-width: 100%; max-height: PICTURE_HEIGHT; width: auto; height: auto; }
""".replace("PICTURE_HEIGHT", PICTURE_HEIGHT)

# `currentScript` finds the control's own element, so that any number of them share a page without ids.
SCRIPT = """
(() => {
  const root = document.currentScript.parentElement;
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const picture = root.querySelector("img"), words = root.querySelector("[role=status]");
  const make = (name, attributes, parent) => parent.appendChild(Object.assign(document.createElement(name), attributes));
  const chosen = data.choices.map((choice) => choice.start), first = picture.src, menus = [];
  const states = (n) => data.choices.slice(n).reduce((count, choice) => count * choice.values.length, 1);
  const place = (n) => chosen.slice(0, n).reduce((sum, value, i) => sum + value * states(i + 1), 0);
  const offered = (i, value) => {  // whether there is a state of this value after those chosen before it
    const from = place(i) + value * states(i + 1);
    return data.states.slice(from, from + states(i + 1)).some((state) => state !== null);
  };
  const offer = () => menus.forEach(([i, select]) => {
    [...select.options].forEach((option, value) => { option.hidden = option.disabled = !offered(i, value); });
    if (!offered(i, chosen[i])) {
      chosen[i] = select.selectedIndex = [...select.options].findIndex((option) => !option.disabled);
    }
  });
  const show = () => {
    offer();
    const [number, text] = data.states[place(chosen.length)];
    picture.src = number === null ? first : "data:image/png;base64," + data.pictures[number];
    words.textContent = text;
  };
  const menu = (choice, label) => {
    const select = make("select", {}, label);
    choice.values.forEach((value) => make("option", { textContent: value }, select));
    select.selectedIndex = choice.start;
    return [select, () => select.selectedIndex];
  };
  const slider = (choice, label, box) => {
    const range = make("input", { type: "range", min: 0, max: choice.values.length - 1, step: 1 }, label);
    range.value = choice.start;
    const ticks = make("datalist", { id: "frame-ticks-" + document.querySelectorAll("datalist").length }, box);
    choice.values.forEach((value, i) => make("option", { value: i, label: value }, ticks));
    range.setAttribute("list", ticks.id);
    const shown = make("span", { className: "value" }, box);
    shown.setAttribute("aria-hidden", "true");  // the range says it itself
    const say = () => {
      shown.textContent = choice.values[range.value];
      range.setAttribute("aria-valuetext", choice.values[range.value]);
    };
    say();
    range.addEventListener("input", say);
    if (choice.play) player(range, choice, box);
    return [range, () => Number(range.value)];
  };
  const player = (range, choice, box) => {
    const button = make("button", { type: "button", textContent: "Play", title: "one after another" }, box);
    const move = (value) => { range.value = value; range.dispatchEvent(new Event("input")); };
    let timer = null;
    const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
    button.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (range.value === range.max) move(0);
      button.textContent = "Pause";
      timer = setInterval(() => {
        if (range.value !== range.max) move(Number(range.value) + 1);
        if (range.value === range.max) stop();
      }, data.play_ms);
    });
  };
  root.addEventListener("keydown", (event) => event.stopPropagation());  // a notebook has uses of its own for arrows
  const row = root.querySelector(".choices");
  data.choices.forEach((choice, i) => {
    const box = make("div", { className: "choice" }, row);
    const label = make("label", { textContent: choice.label }, box);
    const [control, read] = (choice.menu ? menu : slider)(choice, label, box);
    control.title = choice.tooltip;
    if (choice.menu) menus.push([i, control]);
    control.addEventListener("input", () => { chosen[i] = read(); show(); });
  });
  offer();
})();
"""


class FramePage:
    """The choices of a table above the frame chosen, as HTML of its own; `repr` is the first frame in words."""

    def __init__(self, table: FrameTable) -> None:
        """All frames go into the page, equal pictures once."""
        self.table = table

    def __repr__(self) -> str:
        """What a text-only reader sees."""
        return f"(the first of {len(self.table.frames)} states) {self.table.first.words}"

    def _repr_html_(self) -> str:
        """The control, its data and its script in one element."""
        first = self.table.first
        words = html.escape(first.words)
        data = json.dumps(self._data(), ensure_ascii=False).replace("<", "\\u003c")  # nothing may end the script early
        return (
            f'<div class="frame-page"><style>{STYLE}</style><div class="choices"></div>'
            f'<p class="frame-words" role="status">{words}</p>'
            f'<img alt="{PICTURE_NAME}" src="data:image/png;base64,{_text(first.picture)}">'
            f'<script type="application/json">{data}</script><script>{SCRIPT}</script></div>'
        )

    def _data(self) -> dict[str, object]:
        """What the script needs: the choices, each picture once, and picture and words of every state."""
        frames = [self.table.frames.get(key) for key in self.table.keys()]  # noqa: SIM118  (ordered as the script counts)
        others = dict.fromkeys(frame.picture for frame in frames if frame and frame.picture != self.table.first.picture)
        pictures = {picture: number for number, picture in enumerate(others)}
        return {
            "play_ms": PLAY_MS,
            "choices": [
                {
                    "label": choice.label,
                    "tooltip": choice.tooltip,
                    "values": [str(value) for value in choice.values],
                    "start": list(choice.values).index(start),
                    "menu": choice.menu,
                    "play": choice.play,
                }
                for choice, start in zip(self.table.choices, self.table.start, strict=True)
            ],
            "pictures": [_text(picture) for picture in pictures],
            # null for a state that there is not; in one, null for the picture that stands on the page from the start
            "states": [frame and [pictures.get(frame.picture), frame.words] for frame in frames],
        }


def _text(picture: bytes) -> str:
    """Bytes as base64."""
    return b64encode(picture).decode()
