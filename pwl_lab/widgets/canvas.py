"""A canvas to draw on, by mouse, finger or keyboard; what was drawn comes to Python as PNG."""

import anywidget
import traitlets

MODULE = """
const SIDE = 224, PENS = { thick: 20, thin: 8 };

function render({ model, el }) {
  const make = (name, attributes, parent) => parent.appendChild(Object.assign(document.createElement(name), attributes));
  el.classList.add("drawing-canvas");
  const canvas = make("canvas", { width: SIDE, height: SIDE, tabIndex: 0 }, el);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label",
    "a canvas to draw on: arrow keys move the pen, the space bar puts it down and lifts it");
  const bar = make("div", { className: "tools" }, el);
  const label = make("label", { textContent: "Pen " }, bar);
  const pen = make("select", {}, label);
  ["thick", "thin", "eraser"].forEach((name) => make("option", { textContent: name }, pen));
  const clear = make("button", { type: "button", textContent: "Clear" }, bar);
  const context = canvas.getContext("2d");
  let last = null, at = [SIDE / 2, SIDE / 2], down = false;

  const blank = () => { context.fillStyle = "black"; context.fillRect(0, 0, SIDE, SIDE); };
  const line = (from, to) => {
    Object.assign(context, { strokeStyle: pen.value === "eraser" ? "black" : "white", lineCap: "round",
                             lineJoin: "round", lineWidth: PENS[pen.value] ?? PENS.thick });
    context.beginPath(); context.moveTo(...from); context.lineTo(...to); context.stroke();
  };
  const send = () => canvas.toBlob(async (blob) => {
    model.set("drawing", new DataView(await blob.arrayBuffer()));
    model.save_changes();
  }, "image/png");
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event); line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last) { const to = place(event); line(last, to); last = to; }
  });
  const lift = () => { if (last) { at = last; last = null; send(); } };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  const MOVES = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      down = !down;
      canvas.classList.toggle("down", down);
      if (down) line(at, at); else send();
    } else if (event.key in MOVES) {
      const to = at.map((value, i) => Math.min(SIDE, Math.max(0, value + MOVES[event.key][i])));
      if (down) line(at, to);
      at = to;
    } else return;
    event.preventDefault(); event.stopPropagation();  // a notebook has uses of its own for these keys
  });
  clear.addEventListener("click", () => {
    blank(); down = false; canvas.classList.remove("down");
    model.set("drawing", new DataView(new ArrayBuffer(0))); model.save_changes();
  });
  blank();
}
export default { render };
"""

STYLE = """
.drawing-canvas canvas { width: 224px; height: 224px; touch-action: none; cursor: crosshair; border: 2px solid #767676; }
.drawing-canvas canvas.down { border-color: #D55E00; }
.drawing-canvas .tools { display: flex; gap: .8rem; align-items: center; margin: .3rem 0; }
"""


class DrawingCanvas(anywidget.AnyWidget):
    """A black canvas with a white pen: `drawing` is the PNG after each stroke, empty once it is cleared."""

    _esm = MODULE
    _css = STYLE
    drawing = traitlets.Bytes(b"").tag(sync=True)
