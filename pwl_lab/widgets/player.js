// The layer loader in a browser: a clock, bars that fill with bytes at the chosen bandwidth, blocks that change hands.
//
// The same module runs everywhere: `anywidget` calls `render` in JupyterLab, VS Code and Voila; an exported page calls it with
// a model that has no kernel behind it. Nothing here computes a prediction: every answer is looked up in the data.

const SHOWN_AT_ONCE = { images: 6, strings: 3 };
const LONGEST_PLAY_S = 15; // a longer play is sped up,
const SHORTEST_PLAY_S = 0.5; // a shorter one is slowed down,
const SLOWED_PLAY_S = 2; // until it takes at least this long
const FACTORS = [2, 4, 8, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 400, 800, 1000];
const SVG = "http://www.w3.org/2000/svg";

const make = (name, attributes = {}, parent = null) => {
  const one = Object.assign(document.createElement(name), attributes);
  return parent ? parent.appendChild(one) : one;
};
const draw = (name, attributes, parent, text) => {
  const one = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => one.setAttribute(key, value));
  if (text !== undefined) one.textContent = text;
  return parent.appendChild(one);
};
// A group holds pictures, with one label each, or strings, with a label for each token that is predicted.
const kindOf = (group) => (group.strings ? "strings" : "images");
const put = (one, text) => { if (one.textContent !== text) one.textContent = text; };
const count = (mask, letter) => mask.split(letter).length - 1;
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const bytesIn = (size) => {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (size >= 0.9995 * factor) return `${(size / factor).toFixed(size / factor < 9.95 ? 1 : 0)} ${unit}`;
  }
  return `${Math.round(size)} B`;
};
const secondsIn = (value) =>
  value < 0.9995 ? `${Number((1000 * value).toPrecision(3))} ms` : `${Number(value.toPrecision(3))} s`;

// The speed of a play of this many seconds, relative to real time.
const speedFor = (seconds) => {
  if (seconds > LONGEST_PLAY_S) return FACTORS.find((factor) => seconds / factor <= LONGEST_PLAY_S) ?? seconds / LONGEST_PLAY_S;
  if (seconds < SHORTEST_PLAY_S) return 1 / (FACTORS.find((factor) => seconds * factor >= SLOWED_PLAY_S) ?? SLOWED_PLAY_S / seconds);
  return 1;
};
const speedWords = (speed) =>
  speed === 1 ? "real time" : speed > 1 ? `${Math.round(speed)}× speed-up` : `${Math.round(1 / speed)}× slow motion`;

// For each step of an order: the block that arrives, and the bytes before and after it. Step 0 is the student.
const arrivals = (pair, masks) => {
  const steps = [{ mask: masks[0], block: null, begin: 0, end: pair.student }];
  masks.slice(1).forEach((mask, i) => {
    const block = [...mask].findIndex((letter, at) => letter !== masks[i][at]);
    const begin = steps[i].end;
    steps.push({ mask, block, begin, end: begin + pair.units[block] });
  });
  return steps;
};
const arrived = (pair, mask) => [...mask].reduce((sum, letter, i) => sum + (letter === "T" ? pair.units[i] : 0), pair.student);

function render({ model, el }) {
  const root = make("div", { className: "pwl-player" }, el);
  const now = { bytes: 0, mask: null, playing: false, paused: false, first: 0 };
  // `mask`: set by hand, outside the order. `paused`: Play continues from here instead of starting over. `first`: the first picture shown.
  let pair, steps, speed, seconds; // of the current choice
  const ui = layout(root, model);
  const chart = new Chart(ui.chart);

  const shownMask = () => now.mask ?? steps.filter((step) => step.end <= now.bytes + 0.5).at(-1)?.mask ?? "";
  const secondsOf = (bytes) => bytes / (model.get("link") * 1e6);
  const end = () => steps.at(-1).end;

  const choose = () => { // pair, order or link have changed
    pair = model.get("data").pairs[model.get("pair")] ?? model.get("data").pairs[0];
    const order = model.get("order") in pair.orders ? model.get("order") : Object.keys(pair.orders)[0];
    steps = arrivals(pair, pair.orders[order]);
    seconds = secondsOf(end());
    speed = speedFor(seconds);
    menus(ui, model, pair, order);
    blocks(ui, pair, switched);
    pictures();
    chart.set(pair, order, arrived, arrivals, secondsOf, model.get("data").looks);
    frame();
  };
  const shownGroup = () => pair.groups[model.get("group")] ?? Object.values(pair.groups)[0];
  const pictures = () => {
    const group = shownGroup();
    now.first = now.first < group[kindOf(group)].length ? now.first : 0;
    gallery(ui, group, now.first);
  };
  const frame = () => { // updates everything that depends on the time
    const mask = shownMask();
    const bytes = now.mask === null ? now.bytes : arrived(pair, now.mask);
    fill(ui, pair, steps, mask, now.mask === null ? now.bytes : null);
    teacherAlone(ui, pair, now.mask === null ? now.bytes : null);
    ui.time.value = Math.round((1000 * bytes) / end());
    ui.time.setAttribute("aria-valuetext", secondsIn(secondsOf(bytes)));
    put(ui.clock, `${secondsOf(bytes).toFixed(seconds < 1 ? 3 : seconds < 100 ? 1 : 0)} s`);
    put(ui.came, bytesIn(bytes));
    put(ui.speed, speedWords(speed));
    chart.at(bytes, mask, now.mask !== null);
    const loaded = `${count(mask, "T")} of ${pair.units.length}`;
    ui.blocks.value = count(mask, "T");
    ui.blocks.setAttribute("aria-valuetext", loaded);
    put(ui.loaded, loaded);
    put(ui.answer, mask ? `${mask} answers` : "no answer yet");
    put(ui.accuracy, mask ? percent(pair.accuracy[mask]) : "…");
    if (root.dataset.mask !== mask || !now.playing) say(mask, bytes);
  };
  const say = (mask, bytes) => { // updates words and predictions when another network answers or the reader moves a control
    root.dataset.mask = mask;
    verdicts(ui, shownGroup(), mask);
    const of = pair.name ? ` of ${pair.name}` : "";
    const loaded = `${mask}: ${count(mask, "T")} of ${pair.units.length} teacher blocks loaded${of}, test accuracy `;
    const when = `after ${secondsIn(secondsOf(bytes))} at ${model.get("link")} MB/s`;
    put(ui.said, mask
      ? `${loaded}${percent(pair.accuracy[mask])}. ${bytesIn(bytes)} have arrived, ${when}.`
      : `The student${of} has not arrived yet: no network can answer. ${bytesIn(bytes)} have arrived, ${when}.`);
    const captions = [...ui.gallery.querySelectorAll("figcaption")].map((one) => one.textContent.replaceAll("\n", " "));
    put(ui.listened, mask ? ` Predictions: ${captions.join("; ")}` : "");
    if (model.get("mask") !== mask) {
      model.set("mask", mask);
      model.save_changes();
    }
  };
  const seek = (bytes) => {
    now.mask = null;
    now.bytes = Math.min(bytes, end());
    frame();
  };
  const switched = (mask) => {
    stop();
    const step = steps.find((one) => one.mask === mask);
    if (step) return seek(step.end);
    now.mask = mask;
    frame();
  };

  let request = null;
  const stop = () => {
    cancelAnimationFrame(request);
    now.playing = false;
    put(ui.play, "Play");
  };
  const play = () => {
    if (!now.paused || now.mask !== null || now.bytes >= end()) now.bytes = 0;
    now.mask = null;
    now.paused = false;
    now.playing = true;
    put(ui.play, "Pause");
    let before = performance.now();
    const tick = () => {
      const time = performance.now();
      now.bytes = Math.min(now.bytes + ((time - before) / 1000) * speed * model.get("link") * 1e6, end());
      before = time;
      if (now.bytes >= end()) stop();
      else request = requestAnimationFrame(tick);
      frame();
    };
    frame();
    request = requestAnimationFrame(tick);
  };

  ui.play.addEventListener("click", () => {
    if (!now.playing) return play();
    stop();
    now.paused = true;
  });
  ui.time.addEventListener("input", () => { stop(); now.paused = true; seek((ui.time.value / 1000) * end()); });
  ui.blocks.addEventListener("input", () => { stop(); now.paused = false; seek(steps[ui.blocks.value].end); });
  const chooseAgain = () => { // keeps the number of loaded blocks; a running play continues at the same share
    const loaded = count(shownMask(), "T"), share = now.bytes / end();
    choose();
    seek(now.playing ? share * end() : steps[Math.min(loaded, pair.units.length)].end);
  };
  model.on("change:pair", chooseAgain);
  model.on("change:order", chooseAgain);
  model.on("change:link", choose); // the bytes that have arrived stay
  model.on("change:group", () => { now.first = 0; pictures(); frame(); });
  for (const [name, read] of [["pair", Number], ["order", String], ["link", Number], ["group", String]]) {
    ui[name].addEventListener("change", () => { model.set(name, read(ui[name].value)); model.save_changes(); });
  }
  model.on("change:data", choose);
  model.on("change:mask", () => {
    const mask = model.get("mask");
    if (mask && mask !== root.dataset.mask && mask in pair.accuracy) switched(mask);
  });
  for (const [button, sign] of [[ui.earlier, -1], [ui.later, 1]]) {
    button.addEventListener("click", () => {
      now.first = Math.max(0, now.first + sign * SHOWN_AT_ONCE[kindOf(shownGroup())]);
      pictures();
      frame();
    });
  }
  // The page around it uses arrow keys, too: slides and JupyterLab hear a key after the control, Notebook 7 before it, but
  // not one for an element marked like this.
  root.addEventListener("keydown", (event) => event.stopPropagation());
  root.addEventListener("focusin", (event) => { event.target.dataset.lmSuppressShortcuts = "true"; });
  const watcher = new ResizeObserver(() => { chart.resize(); frame(); });
  choose();
  seek(pair.student);
  if (model.get("mask")) switched(model.get("mask"));
  watcher.observe(ui.chart);
  return () => { stop(); watcher.disconnect(); };
}

// The permanent elements; the functions below fill them.
function layout(root, model) {
  const data = model.get("data"), ui = {};
  const labelled = (label, control, parent, hint) => {
    const box = make("label", { title: hint }, parent);
    make("span", { textContent: label }, box);
    control.title = hint;
    return box.appendChild(control);
  };
  const first = make("div", { className: "row" }, root);
  ui.pair = labelled("Pair", make("select"), first, "family, and what the student was trained by");
  ui.order = labelled("Loading order", make("select"), first, "which teacher block comes when");
  ui.link = labelled("Bandwidth", make("select"), first, "how fast the bytes come");
  data.links.forEach((link) => make("option", { value: link, textContent: `${link} MB/s` }, ui.link));
  const range = (max, step) => make("input", { type: "range", min: 0, max, step, value: 0 });
  ui.blocks = labelled("Teacher blocks loaded", range(1, 1), first, "how many of the teacher's blocks have replaced the student's");
  ui.loaded = make("span", { ariaHidden: "true" }, ui.blocks.parentElement); // screen readers get it from the range
  const second = make("div", { className: "row" }, root);
  ui.play = make("button", { type: "button", className: "play", textContent: "Play", title: "load at the chosen bandwidth" }, second);
  ui.time = labelled("Time", range(1000, 5), second, "any moment of the loading");
  ui.time.parentElement.classList.add("time");
  const numbers = make("div", { className: "numbers" }, second);
  for (const name of ["clock", "came", "speed"]) ui[name] = make("span", { className: name }, numbers);
  const body = make("div", { className: "body" }, root), left = make("div", { className: "left" }, body);
  const lane = (title) => {
    const box = make("div", { className: "lane" }, left), head = make("header", {}, box);
    make("b", { textContent: title }, head);
    return [box, make("span", { className: "answer" }, head), make("span", { className: "accuracy" }, head)];
  };
  let box;
  [box, ui.answer, ui.accuracy] = lane("Progressive loading");
  ui.network = make("div", { className: "network" }, box);
  [box, ui.alone, ui.aloneAccuracy] = lane("Teacher alone");
  ui.teacher = unit(make("div", { className: "network" }, box), "div");
  ui.gallery = make("div", { className: "gallery" }, left);
  const foot = make("div", { className: "row foot" }, left);
  ui.group = labelled("Pictures", make("select"), foot, "which test pictures are shown");
  ui.earlier = make("button", { type: "button", textContent: "‹", title: "earlier pictures", ariaLabel: "earlier pictures" }, foot);
  ui.later = make("button", { type: "button", textContent: "›", title: "later pictures", ariaLabel: "later pictures" }, foot);
  ui.tally = make("span", { className: "tally" }, foot);
  const right = make("div", { className: "right" }, body);
  ui.chart = make("div", { className: "chart" }, right);
  ui.legend = make("small", { className: "legend" }, right);
  const words = make("p", { className: "words" }, root);
  words.setAttribute("role", "status");
  ui.said = make("span", {}, words);
  ui.listened = make("span", { className: "listened" }, words); // for screen readers; others see it under the pictures
  return ui;
}

// A bar that fills with bytes, with text on top.
function unit(parent, kind) {
  const box = make(kind, { className: "unit" }, parent);
  return { box, bar: make("i", {}, box), words: make("span", {}, box), size: make("small", {}, box) };
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
  select.value = chosen;
}

function menus(ui, model, pair, order) {
  options(ui.order, Object.keys(pair.orders), order);
  const groups = Object.keys(pair.groups);
  options(ui.group, groups, groups.includes(model.get("group")) ? model.get("group") : groups[0]);
  ui.group.parentElement.hidden = groups.length < 2;
  const pairs = model.get("data").pairs;
  if (ui.pair.options.length !== pairs.length) {
    ui.pair.replaceChildren(...pairs.map((one, i) => make("option", { value: i, textContent: one.name })));
    ui.pair.parentElement.hidden = pairs.length < 2;
  }
  ui.link.value = model.get("link");
  ui.pair.value = model.get("pair");
  const same = (name) => pair.orders[name].join() === pair.orders[order].join();  // "best" may be one of the others
  const others = Object.keys(pair.orders).filter((name) => !same(name)).join(", ") || "no other order";
  const chosen = [order, ...Object.keys(pair.orders).filter((name) => same(name) && name !== order)].join(" = ");
  put(ui.legend, `In colour: ${chosen} order. Grey lines: ${others}. Grey dots: all other masks.`);
  ui.blocks.max = pair.units.length;
}

function blocks(ui, pair, switched) {
  ui.network.replaceChildren();
  ui.student = unit(ui.network, "div");
  put(ui.student.size, bytesIn(pair.student));
  ui.units = pair.units.map((bytes, i) => {
    const one = unit(ui.network, "button");
    one.box.type = "button";
    one.box.title = `give block ${i + 1} to the other network`;
    put(one.size, bytesIn(bytes));
    one.box.addEventListener("click", () => {
      const letters = [...ui.units.map((other) => other.owner || "S")];
      letters[i] = letters[i] === "T" ? "S" : "T";
      switched(letters.join(""));
    });
    return one;
  });
  put(ui.teacher.words, "all blocks");
  put(ui.teacher.size, bytesIn(pair.teacher));
}

// Fills each bar for this many bytes; without a number, bars are full or empty according to the mask.
function fill(ui, pair, steps, mask, bytes) {
  const share = (step) => (bytes === null ? null : Math.max(0, Math.min(1, (bytes - step.begin) / (step.end - step.begin))));
  const width = (one, part) => { one.bar.style.width = `${100 * part}%`; one.box.dataset.full = part >= 1; };
  width(ui.student, share(steps[0]) ?? 1);
  put(ui.student.words, mask ? "student ✓" : "student");
  ui.student.box.dataset.owner = "S";
  steps.slice(1).forEach((step) => {
    const one = ui.units[step.block], owner = mask ? mask[step.block] : "";
    width(one, share(step) ?? (owner === "T" ? 1 : 0));
    if (one.owner === owner) return;
    one.owner = owner;
    one.box.dataset.owner = owner;
    one.box.setAttribute("aria-pressed", owner === "T");
    const name = { T: "teacher", S: "student", "": "nobody yet" }[owner];
    one.box.setAttribute("aria-label", `block ${step.block + 1}: ${name}`);
    put(one.words, `block ${step.block + 1}`);
    one.box.dataset.name = name;
  });
}

function teacherAlone(ui, pair, bytes) {
  const there = bytes !== null && bytes >= pair.teacher - 0.5;
  const share = bytes === null ? 0 : Math.min(1, bytes / pair.teacher);
  ui.teacher.bar.style.width = `${100 * share}%`;
  ui.teacher.box.dataset.owner = there ? "T" : "";
  ui.teacher.box.dataset.full = there;
  put(ui.alone, bytes === null ? "not timed (mask by hand)" : there ? "answers now" : "still waiting");
  ui.alone.dataset.waiting = !there;
  put(ui.aloneAccuracy, there ? percent(pair.accuracy["T".repeat(pair.units.length)]) : "…");
}

function gallery(ui, group, first) {
  const kind = kindOf(group), most = SHOWN_AT_ONCE[kind], all = group[kind].length;
  const shown = group[kind].slice(first, first + most);
  ui.gallery.dataset.kind = kind;
  ui.gallery.replaceChildren(...shown.map(kind === "strings" ? string : (source, i) => picture(source, first + i)));
  ui.earlier.hidden = ui.later.hidden = all <= most;
  ui.earlier.disabled = first === 0;
  ui.later.disabled = first + most >= all;
  const what = kind === "strings" ? "strings" : "pictures";
  put(ui.group.previousSibling, kind === "strings" ? "Strings" : "Pictures");
  ui.group.title = ui.group.parentElement.title = `which test ${what} are shown`;
  ui.earlier.title = ui.earlier.ariaLabel = `earlier ${what}`;
  ui.later.title = ui.later.ariaLabel = `later ${what}`;
}

function picture(source, at) {
  const figure = make("figure");
  figure.dataset.at = at;
  make("img", { src: source, alt: "a test picture" }, figure);
  make("figcaption", {}, figure);
  return figure;
}

// The symbols of a string; below each that is predicted stands what the network says.
function string(tokens) {
  const line = make("div", { className: "string" });
  for (const [symbol, at] of tokens) {
    const figure = make(at === null ? "div" : "figure", {}, line);
    make("b", { textContent: symbol }, figure);
    if (at === null) continue;
    figure.dataset.at = at;
    make("figcaption", {}, figure);
  }
  return line;
}

// The predictions of this mask for each picture or token; "" means that no network has arrived.
function verdicts(ui, group, mask) {
  const strings = kindOf(group) === "strings";
  ui.gallery.querySelectorAll("figure").forEach((figure) => {
    const at = Number(figure.dataset.at), guess = mask ? group.predicted[mask][at] : null;
    const label = group.labels[at], right = guess === label, sure = guess === null ? 0 : group.confidence[mask][at];
    figure.dataset.right = guess === null ? "" : right;
    const lines = guess === null ? ["…"] : [
      `${right ? "✓" : "✗"} ${group.classes[guess]}`,
      ...(strings ? [] : [`${Math.round(100 * sure)}%`]),
      ...(right ? [] : [strings ? `(${group.classes[label]})` : `is: ${group.classes[label]}`]),
    ];
    put(figure.lastChild, lines.join("\n"));
    if (strings && guess !== null) figure.title = `${group.classes[guess]}: ${Math.round(100 * sure)}%; it is ${group.classes[label]}`;
  });
  const all = group.labels.length, right = mask ? group.labels.filter((label, i) => label === group.predicted[mask][i]).length : 0;
  const what = strings ? "predicted tokens" : "pictures";
  put(ui.tally, mask ? `${right} of these ${all} ${what} right` : `${all} ${what} wait for an answer`);
}

// Accuracy against seconds on the chosen link: a step curve for each order, the teacher alone, and the current time.
class Chart {
  constructor(place) {
    this.place = place;
    this.svg = draw("svg", { role: "img", "aria-label": "accuracy against seconds; the words say where the clock stands" }, place);
  }

  set(pair, order, arrived, arrivals, secondsOf, looks) {
    Object.assign(this, { pair, order, secondsOf, looks });
    this.curves = Object.fromEntries(Object.entries(pair.orders).map(([name, masks]) => [name, arrivals(pair, masks)]));
    this.dots = Object.entries(pair.accuracy).map(([mask, accuracy]) => [arrived(pair, mask), accuracy]);
    this.last = Math.max(...Object.values(this.curves).map((steps) => steps.at(-1).end));
    this.resize();
  }

  resize() {
    if (!this.pair) return;
    this.width = Math.max(240, this.place.clientWidth);
    this.height = Math.max(210, Math.min(300, this.width * 0.6));
    this.svg.setAttribute("width", this.width);
    this.svg.setAttribute("height", this.height);
    const values = this.dots.map(([, accuracy]) => accuracy), low = Math.min(...values), high = Math.max(...values);
    const room = 0.08 * (high - low) || 0.01;
    [this.low, this.high] = [low - room, high + room];
    this.svg.replaceChildren();
    this.axes();
    this.lines();
  }

  x(bytes) { return 48 + ((this.width - 60) * bytes) / (1.02 * this.last); }

  y(accuracy) { return this.height - 40 - ((this.height - 80) * (accuracy - this.low)) / (this.high - this.low); }

  axes() {
    const nice = (span) => [1, 2, 2.5, 5, 10].map((one) => one * 10 ** Math.floor(Math.log10(span / 4))).find((one) => one * 5 >= span);
    const ticks = (from, to) => {
      const step = nice(to - from), first = Math.ceil(from / step - 1e-9);
      return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
    };
    for (const value of ticks(this.low, this.high)) {
      const y = this.y(value);
      draw("line", { x1: 48, x2: this.width - 12, y1: y, y2: y, stroke: "#E5E5E5" }, this.svg);
      draw("text", { x: 44, y: y + 4, "text-anchor": "end" }, this.svg, `${Number((100 * value).toPrecision(4))}%`);
    }
    const longest = this.secondsOf(1.02 * this.last);
    for (const value of ticks(0, longest)) {
      const x = this.x((1.02 * this.last * value) / longest);
      draw("line", { x1: x, x2: x, y1: this.height - 40, y2: this.height - 36, stroke: "#444" }, this.svg);
      draw("text", { x, y: this.height - 22, "text-anchor": "middle" }, this.svg, String(value));
    }
    draw("line", { x1: 48, x2: this.width - 12, y1: this.height - 40, y2: this.height - 40, stroke: "#444" }, this.svg);
    draw("text", { x: this.width - 12, y: this.height - 5, "text-anchor": "end" }, this.svg, "seconds since the start");
    draw("text", { x: 4, y: 13 }, this.svg, "test accuracy");
  }

  path(steps, until) {
    const reached = steps.filter((step) => step.end <= until);
    if (!reached.length) return "M0 0";
    const height = (step) => this.y(this.pair.accuracy[step.mask]);
    const corners = reached.map((step, i) => `${i ? "H" : "M"}${this.x(step.end)}${i ? "V" : " "}${height(step)}`);
    return `${corners.join("")}H${this.x(Math.min(until, 1.02 * this.last))}`;
  }

  lines() {
    const line = (path, look, width, opacity = 1) => draw("path", {
      d: path, fill: "none", stroke: look.colour, "stroke-width": width, "stroke-dasharray": look.dashes, "stroke-opacity": opacity,
    }, this.svg);
    this.dots.forEach(([bytes, accuracy]) => draw("circle", { cx: this.x(bytes), cy: this.y(accuracy), r: 2.5, fill: "#BBB" }, this.svg));
    for (const [name, steps] of Object.entries(this.curves)) {
      if (name !== this.order) line(this.path(steps, Infinity), { ...this.looks[name], colour: "#AAA" }, 1.2);
    }
    const look = this.looks[this.order], mine = this.curves[this.order], teacher = this.looks["teacher alone"];
    line(this.path(mine, Infinity), look, 2, 0.35);
    this.past = line("M0 0", { colour: look.colour, dashes: "" }, 3.5);
    const [x, top] = [this.x(this.pair.teacher), this.y(this.pair.accuracy["T".repeat(this.pair.units.length)])];
    line(`M${x} ${this.height - 40}V${top}H${this.width - 12}`, teacher, 2);
    draw("text", { x: x - 5, y: this.height - 48, "text-anchor": "end", class: "teacher" }, this.svg, "teacher alone");
    let free = -Infinity; // labels that would overlap are left out
    mine.forEach((step) => {
      const at = this.x(step.end), half = 4 * step.mask.length, middle = Math.min(Math.max(at, 48 + half), this.width - half);
      if (middle - half < free) return;
      free = middle + half + 6;
      draw("text", { x: middle, y: 30, "text-anchor": "middle", class: "mask" }, this.svg, step.mask);
      draw("line", { x1: at, x2: at, y1: 34, y2: this.y(this.pair.accuracy[step.mask]), stroke: "#BBB", "stroke-width": 0.7 }, this.svg);
    });
    this.cursor = draw("line", { y1: 34, y2: this.height - 40, stroke: "#000", "stroke-width": 1 }, this.svg);
    this.ring = draw("circle", { r: 6, fill: "none", stroke: "#000", "stroke-width": 2.5 }, this.svg);
  }

  at(bytes, mask, offOrder) {
    const x = this.x(bytes);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.cursor.setAttribute("visibility", offOrder ? "hidden" : "visible");
    this.past.setAttribute("d", offOrder ? "M0 0" : this.path(this.curves[this.order], bytes + 0.5));
    this.ring.setAttribute("visibility", mask ? "visible" : "hidden");
    this.ring.setAttribute("cx", x);
    if (mask) this.ring.setAttribute("cy", this.y(this.pair.accuracy[mask]));
  }
}

export default { render };
export { bytesIn, draw, make, percent, put, secondsIn }; // for the page on which a network loads (`web/`)
