// A canvas to draw on with mouse, finger or keyboard, and a file input. The model gets the picture as PNG.
//
// The module runs in notebooks, called by `anywidget`, and on the page on which a network loads (`web/`).

const SIDE = 224, LARGEST = 512, MOST_PIXELS = 5e7, PENS = { thick: 20, thin: 8 };

function render({ model, el }) {
  const make = (name, attributes, parent) => parent.appendChild(Object.assign(document.createElement(name), attributes));
  el.classList.add("drawing-canvas");
  // Notebook 7 hears a key before the canvas does, but not one for an element marked like this.
  el.addEventListener("focusin", (event) => { event.target.dataset.lmSuppressShortcuts = "true"; });
  const canvas = make("canvas", { width: SIDE, height: SIDE, tabIndex: 0 }, el);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label",
    "a canvas to draw on: arrow keys move the pen, the space bar lowers and lifts it");
  const bar = make("div", { className: "tools" }, el);
  const label = make("label", { textContent: "Pen " }, bar);
  const pen = make("select", {}, label);
  ["thick", "thin", "eraser"].forEach((name) => make("option", { textContent: name }, pen));
  const clear = make("button", { type: "button", textContent: "Clear" }, bar);
  const upload = make("label", { textContent: "Upload a picture " }, bar);
  const file = make("input", { type: "file", accept: "image/*" }, upload);
  const complaint = make("div", {}, el);
  complaint.setAttribute("role", "alert");
  const context = canvas.getContext("2d");
  let last = null, at = [SIDE / 2, SIDE / 2], down = false;

  const blank = () => { context.fillStyle = "black"; context.fillRect(0, 0, SIDE, SIDE); };
  const line = (from, to) => {
    Object.assign(context, { strokeStyle: pen.value === "eraser" ? "black" : "white", lineCap: "round",
                             lineJoin: "round", lineWidth: PENS[pen.value] ?? PENS.thick });
    context.beginPath(); context.moveTo(...from); context.lineTo(...to); context.stroke();
  };
  const tell = (buffer, words = "") => {
    complaint.textContent = words;
    model.set("picture", new DataView(buffer));
    model.save_changes();
  };
  const send = (from) => from.toBlob(async (blob) => tell(await blob.arrayBuffer()), "image/png");
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
  const lift = () => { if (last) { at = last; last = null; send(canvas); } };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  const MOVES = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      down = !down;
      canvas.classList.toggle("down", down);
      if (down) line(at, at); else send(canvas);
    } else if (event.key in MOVES) {
      const to = at.map((value, i) => Math.min(SIDE, Math.max(0, value + MOVES[event.key][i])));
      if (down) line(at, to);
      at = to;
    } else return;
    event.preventDefault(); event.stopPropagation();  // notebooks use these keys themselves
  });
  clear.addEventListener("click", () => {
    blank(); down = false; canvas.classList.remove("down");
    tell(new ArrayBuffer(0));
  });
  file.addEventListener("click", () => { file.value = ""; });  // so that the same file can be chosen again
  file.addEventListener("change", async () => {  // photos are scaled down: kernels accept no large messages
    const [chosen] = file.files;
    if (!chosen) return;
    try {
      const bitmap = await createImageBitmap(chosen), scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
      if (bitmap.width * bitmap.height >= MOST_PIXELS) {
        const millions = Math.round(bitmap.width * bitmap.height / 1e6);
        return tell(new ArrayBuffer(0), `${chosen.name} has ${millions} megapixels; at most ${MOST_PIXELS / 1e6} are allowed.`);
      }
      const size = { width: Math.max(1, bitmap.width * scale), height: Math.max(1, bitmap.height * scale) };
      const small = Object.assign(document.createElement("canvas"), size);
      const painter = Object.assign(small.getContext("2d"), { imageSmoothingQuality: "high" });
      painter.drawImage(bitmap, 0, 0, small.width, small.height);
      send(small);
    } catch {
      tell(new ArrayBuffer(0), `${chosen.name} cannot be read as a picture. Try a PNG, JPEG, GIF or WebP file.`);
    }
  });
  blank();
}
export default { render };
