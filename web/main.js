// The page: which network, order and link; the clock; the blocks that fill and change hands; the picture and its classes.

import canvas from "./canvas.js";
import { Chart } from "./chart.js";
import { fetchFile, Link, TransferError } from "./link.js";
import { argmax, bitsOf, isTeacher, Network, softmax } from "./network.js";
import { normalise, PictureError, pictureFrom, show } from "./pictures.js";
import { bytesIn, make, percent, put, secondsIn } from "./player.js";

/** @typedef {import("./network.js").Model} Model */
/** @typedef {{ pixels: Uint8Array, words: string, label: number | null }} Picture */
/** @typedef {{ block: number, letter: string }} Step block 0: the student; a small letter: as int8 */

const FORMAT = 1; // of models.json and model.json
const RATES = [64e3, 250e3, 1e6, 4e6, 16e6, Infinity]; // bytes per second
const LONGEST_LOAD_S = 15; // the bandwidth shown first is the slowest one on which everything arrives within this time
const PACE_MS = 20; // between two predictions while blocks arrive
const SHOWN_AT_ONCE = 24; // test pictures
const COUNTED_AT_ONCE = 10; // pictures between two breaths of the page
const sleep = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));
const $ = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const select = (/** @type {string} */ id) => /** @type {HTMLSelectElement} */ ($(id));
const button = (/** @type {string} */ id) => /** @type {HTMLButtonElement} */ ($(id));
const chart = new Chart($("chart"));

/** Everything that changes; the tests look at it too. */
export const app = {
  /** @type {"starting" | "ready" | "loading" | "paused" | "failed" | "done" | "broken"} */
  phase: "starting",
  /** @type {any} */ ort: null,
  folder: "",
  model: /** @type {Model} */ (/** @type {unknown} */ (null)),
  network: /** @type {Network} */ (/** @type {unknown} */ (null)),
  link: new Link(Infinity),
  mask: "", // of the blocks that have arrived
  chosen: "", // set by hand; "" follows the loading order
  /** @type {Record<string, number>} */ came: {}, // bytes of each unit
  /** @type {import("./chart.js").Point[]} */ points: [],
  /** @type {number[]} */ gaps: [], // between two predictions while blocks arrive, in milliseconds
  predictions: 0,
  firstPrediction: NaN, // seconds since Load
  bytesAtFirst: 0, // that had arrived at the first prediction
  seconds: 0,
  /** @type {Picture[]} */ pictures: [],
  /** @type {Picture} */ picture: { pixels: new Uint8Array(), words: "", label: null },
  page: 0, // of the gallery
};
let aborter = new AbortController(); // ends a load that was superseded
let ticking = 0; // the clock's last look, in milliseconds
/** @type {(() => void)[]} */ let breaths = []; // what waits for the pause after a prediction

const letters = () => select("precision").value; // the student's, then the teacher's, each time that its blocks come
const order = () => app.model.orders[select("order").value];
/** What comes, in its order. @returns {Step[]} */
const steps = () => [...letters()].flatMap((letter) => (isTeacher(letter) ? order() : [0]).map((block) => ({ block, letter })));
const namesOf = (/** @type {Step} */ { block, letter }) =>
  app.model.arrivals[block].map((name) => name + bitsOf(letter)).filter((name) => name in app.model.units);
const size = (/** @type {string[]} */ names) => names.reduce((sum, name) => sum + app.model.units[name].bytes, 0);
const wholeSize = () => size(steps().flatMap(namesOf));
const allOf = (/** @type {string} */ letter) => letter.repeat(app.model.n_blocks);
const running = () => app.chosen || app.mask;
/** NaN if nobody has measured it. */
const accuracyOf = (/** @type {string} */ mask) => app.model.accuracies.test?.[mask] ?? app.model.images.hits[mask] / app.pictures.length;
const accuracyWords = (/** @type {string} */ mask) => (isNaN(accuracyOf(mask)) ? "not measured" : percent(accuracyOf(mask)));
const rateWords = (/** @type {number} */ rate) => (rate === Infinity ? "unlimited" : `${bytesIn(rate)}/s`);
const stepName = (/** @type {Step} */ { block, letter }) => (block ? `block ${block}` : "the student") + (bitsOf(letter) && " (int8)");
/** Resolves in the pause after the next prediction, for what would hold a prediction up. */
const breath = () => (app.mask ? new Promise((resolve) => breaths.push(() => resolve(null))) : null);
const median = (/** @type {number[]} */ values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

async function start() {
  $("unserved").hidden = true;
  if (typeof WebAssembly === "undefined") return broken("This page needs WebAssembly, which is switched off in this browser.");
  try {
    const list = await json("models.json");
    const begun = performance.now();
    app.ort = await import(/** @type {string} */ ("./runtime/ort.wasm.min.mjs"));
    app.ort.env.wasm.numThreads = 1;
    app.ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
    const warm = await app.ort.InferenceSession.create(new Uint8Array(await (await fetch("runtime/warm-up.onnx")).arrayBuffer()));
    await warm.run({ state: new app.ort.Tensor("float32", new Float32Array(16), [1, 1, 4, 4]) });
    await warm.release();
    put($("runtime"), `ONNX Runtime Web (${bytesIn(list.runtime_bytes)}) took ${secondsIn((performance.now() - begun) / 1000)} to start, ` +
      "before the clock runs: it belongs to the page, not to the network.");
    for (const { name, folder } of list.models) make("option", { value: folder, textContent: name }, select("model"));
    const asked = location.hash.slice(1);
    if (list.models.some((/** @type {{ folder: string }} */ { folder }) => folder === asked)) select("model").value = asked;
    select("model").parentElement?.toggleAttribute("hidden", list.models.length < 2);
    await open();
  } catch (error) {
    broken(`This page cannot start: ${said(error)}.`);
  }
}

/** @param {string} url */
async function json(url) {
  const response = await fetch(url, { cache: "no-store" });
  if (!response.ok) throw new Error(`${url}: the server answers ${response.status}`);
  const content = await response.json();
  if (content.format > FORMAT) throw new Error(`${url} has format ${content.format}, and this page reads up to ${FORMAT}; export the page again`);
  return content;
}

const said = (/** @type {unknown} */ error) => (error instanceof Error ? error.message : String(error));

/** @param {string} words */
function broken(words) {
  app.phase = "broken";
  $("problem").hidden = false;
  button("retry").hidden = true;
  put($("reason"), words);
  controls();
}

/** Another network: its description and test images. */
async function open() {
  aborter.abort();
  app.mask = app.chosen = "";
  app.folder = `models/${select("model").value}`;
  app.model = await json(`${app.folder}/model.json`);
  const { images, inputs, class_names } = app.model;
  const bytes = await fetchFile(`${app.folder}/${images.file}`, images, new Link(Infinity), () => {}, new AbortController().signal);
  const length = inputs.shape.reduce((a, b) => a * b, 1);
  app.pictures = images.labels.map((label, i) => ({
    pixels: bytes.subarray(i * length, (i + 1) * length), label, words: `test picture ${i + 1}: ${class_names[label]}`,
  }));
  select("order").replaceChildren(...Object.entries(app.model.orders).map(([name, blocks]) =>
    make("option", { value: name, textContent: `${name} (${blocks.join("-")})` })));
  const inInt8 = namesOf({ block: 1, letter: "t" }).length > 0;
  select("precision").value = "ST";
  select("precision").parentElement?.toggleAttribute("hidden", !inInt8);
  const total = wholeSize(), first = RATES.find((rate) => total / rate <= LONGEST_LOAD_S);
  select("rate").replaceChildren(...RATES.map((rate) => make("option", { value: rate, textContent: rateWords(rate) })));
  select("rate").value = String(first);
  app.page = 0;
  bars();
  gallery();
  choose(inGallery()[0]);
  await restart();
}

/** Forget what has arrived. */
async function restart() {
  aborter.abort();
  aborter = new AbortController();
  breaths = [];
  const before = app.network;
  app.network = new Network(app.ort, app.model);
  await before?.release();
  app.link = new Link(Number(select("rate").value));
  Object.assign(app, { phase: "ready", mask: "", chosen: "", came: {}, points: [], gaps: [], predictions: 0, firstPrediction: NaN, bytesAtFirst: 0, seconds: 0 });
  units();
  put($("tally"), "");
  swapped();
}

async function load() {
  const { signal } = aborter;
  app.phase = "loading";
  app.link.resume();
  ticking = performance.now();
  requestAnimationFrame(tick);
  controls();
  let [step] = steps();
  try {
    for (step of steps()) {
      for (const name of namesOf(step)) if (!app.network.has(name)) await bring(name, signal);
      arrived(step);
    }
    app.phase = "done";
  } catch (error) {
    if (signal.aborted) return;
    app.phase = "failed";
    const why = error instanceof TransferError ? said(error) : `it cannot be run (${said(error)})`;
    const goesOn = app.mask ? `${app.mask} goes on predicting` : "nothing can predict yet";
    const name = stepName(step), what = name[0].toUpperCase() + name.slice(1);
    put($("reason"), `${what} did not arrive: ${why}. ${app.mask ? "Meanwhile " : ""}${goesOn}.`);
  }
  clock();
  controls();
  tell();
}

/** @param {string} name @param {AbortSignal} signal */
async function bring(name, signal) {
  const facts = app.model.units[name];
  const content = await fetchFile(`${app.folder}/${facts.file}`, facts, app.link, (bytes) => { app.came[name] = bytes; }, signal);
  const network = app.network;
  await breath();
  await network.add(name, content);
  signal.throwIfAborted();
}

/** @param {Step} step */
function arrived({ block, letter }) {
  const before = app.mask;
  if (block ? app.mask[block - 1] === "T" : app.mask) return; // it had come before a Retry
  app.mask = block ? app.mask.slice(0, block - 1) + letter + app.mask.slice(block) : allOf(letter);
  if (app.mask === before) return;
  clock();
  app.points = [...app.points, { seconds: app.seconds, accuracy: accuracyOf(app.mask), mask: app.mask }];
  if (!before) keepPredicting(aborter.signal);
  swapped();
}

/** Predict again and again while blocks arrive. @param {AbortSignal} signal */
async function keepPredicting(signal) {
  let before = 0;
  while (!signal.aborted && ["loading", "paused", "failed"].includes(app.phase)) {
    await predict();
    if (signal.aborted) return;
    const now = performance.now();
    app.predictions += 1;
    if (before && !document.hidden) app.gaps.push(now - before); // browsers slow down what is not seen
    if (!before) {
      clock();
      Object.assign(app, { firstPrediction: app.seconds, bytesAtFirst: arrivedBytes() });
    }
    before = now;
    breaths.shift()?.();
    await sleep(PACE_MS);
  }
  pace();
}

const arrivedBytes = () => Object.values(app.came).reduce((a, b) => a + b, 0);

/** Ask the network that runs about the picture that is shown. */
async function predict() {
  const mask = running(), { picture, network } = app;
  if (!mask) return;
  const probabilities = softmax(await network.logits(normalise(picture.pixels, app.model.inputs), 1, mask));
  if (picture !== app.picture || mask !== running()) return; // it is about something that is no longer shown
  const best = argmax(probabilities);
  document.querySelectorAll("#bars .bar").forEach((bar, i) => {
    /** @type {HTMLElement} */ (bar.firstElementChild).style.width = percent(probabilities[i]);
    [bar, bar.previousElementSibling].forEach((one) => one?.classList.toggle("best", i === best));
    put(/** @type {HTMLElement} */ (bar.nextElementSibling), `${Math.round(100 * probabilities[i])}%`);
  });
  const name = app.model.class_names[best], right = picture.label === null ? "" : picture.label === best ? " ✓" : " ✗";
  put($("which"), `${picture.words}. ${mask} says: ${name}${right}`);
}

/** How many test pictures the network that runs gets right, computed here. */
async function countRight() {
  const mask = running(), { signal } = aborter, { inputs, images } = app.model;
  let right = 0;
  button("count").disabled = true;
  for (let begin = 0; begin < app.pictures.length && !signal.aborted; begin += COUNTED_AT_ONCE) {
    const some = app.pictures.slice(begin, begin + COUNTED_AT_ONCE);
    const logits = await app.network.logits(normalise(some.flatMap((one) => [...one.pixels]), inputs), some.length, mask);
    const classes = logits.length / some.length;
    right += some.filter((one, i) => argmax(logits.subarray(i * classes, (i + 1) * classes)) === one.label).length;
    put($("tally"), `${Math.min(begin + COUNTED_AT_ONCE, app.pictures.length)} of ${app.pictures.length} …`);
    await sleep(0);
  }
  if (signal.aborted) return;
  const wanted = images.hits[mask] ?? "not counted";
  put($("tally"), `${mask}: ${right} of ${app.pictures.length} right here, ${wanted} in PyTorch`);
  controls();
}

/** What a change of the network that runs shows. */
function swapped() {
  const mask = running();
  app.chosen = app.chosen === app.mask ? "" : app.chosen;
  put($("mask"), mask ? `${mask} answers` : "no answer yet");
  put($("accuracy"), mask ? accuracyWords(mask) : "…");
  button("follow").hidden = !app.chosen;
  if (!mask) bars();
  controls();
  plan();
  fill();
  pace();
  predict();
  tell();
}

/** In words, for everyone, and read aloud. */
function tell() {
  const mask = running(), teachers = [...mask].filter(isTeacher).length;
  const when = app.phase === "ready" ? "" : ` ${bytesIn(arrivedBytes())} have arrived, after ${secondsIn(app.seconds)}.`;
  put($("said"), mask
    ? `${mask}: ${teachers} of ${mask.length} blocks are the teacher's, test accuracy ${accuracyWords(mask)}.${when}`
    : app.phase === "broken" ? "" : `Nothing has been loaded yet: no network can answer.${when}`);
}

/** The curve so far, and what else the same link could have brought. */
function plan() {
  const { rate } = app.link, whole = (/** @type {string} */ letter) =>
    Array.from({ length: app.model.n_blocks }, (_, i) => `teacher-${i + 1}${bitsOf(letter)}`);
  const rivals = [
    { name: "the student alone", units: app.model.arrivals[0], mask: allOf("S"), colour: "#0072B2", dashes: "2 3", words: "dotted" },
    { name: "the whole teacher first", units: whole("T"), mask: allOf("T"), colour: "#444", dashes: "8 4", words: "dashed" },
    { name: "the teacher in int8", units: whole("t"), mask: allOf("t"), colour: "#009E73", dashes: "9 3 2 3", words: "dashes and dots" },
  ].filter((one) => rate !== Infinity && one.units.every((name) => name in app.model.units))
    .map((one) => ({ ...one, seconds: size(one.units) / rate, accuracy: accuracyOf(one.mask) }));
  const ways = rivals.map((one) => `${one.name} (${one.words}, from ${secondsIn(one.seconds)} on)`).join(", ");
  chart.set(app.points, rivals, Object.keys(app.model.images.hits).map(accuracyOf), wholeSize() / rate);
  put($("legend"), `The thick line is what happens here.${ways && ` On the same link: ${ways}.`}`);
}

function units() {
  const box = (/** @type {string} */ kind, /** @type {number} */ block) => {
    const one = make(kind, { className: "unit" }, $("units"));
    make("i", {}, one);
    make("span", { textContent: block ? `block ${block}` : "student" }, one);
    make("small", { textContent: bytesIn(size(namesOfBlock(block))) }, one);
    return one;
  };
  $("units").replaceChildren();
  box("div", 0);
  for (let block = 1; block <= app.model.n_blocks; block++) {
    Object.assign(box("button", block), { type: "button", onclick: () => give(block) });
  }
}

/** All that comes for a block. @param {number} block */
const namesOfBlock = (block) => steps().filter((step) => step.block === block).flatMap(namesOf);

/** Hand a block to the other network. @param {number} block */
function give(block) {
  const mask = running(), other = isTeacher(mask[block - 1]) ? letters()[0] : app.mask[block - 1];
  app.chosen = mask.slice(0, block - 1) + other + mask.slice(block);
  swapped();
}

/** Bars of bytes, and the owners of the blocks. */
function fill() {
  const mask = running();
  [...$("units").children].forEach((child, block) => {
    const one = /** @type {HTMLButtonElement} */ (child), names = namesOfBlock(block);
    const share = names.reduce((sum, name) => sum + (app.came[name] ?? 0), 0) / size(names);
    const letter = block === 0 ? "S" : (mask[block - 1] ?? "");
    /** @type {HTMLElement} */ (one.firstElementChild).style.width = `${100 * share}%`;
    one.dataset.full = String(share >= 1);
    one.dataset.owner = letter.toUpperCase();
    if (block === 0) return;
    const name = letter ? (isTeacher(letter) ? "teacher" : "student") + (bitsOf(letter) && ", int8") : "nobody yet";
    one.dataset.name = name;
    one.disabled = !app.mask || !isTeacher(app.mask[block - 1]);
    one.setAttribute("aria-pressed", String(isTeacher(letter)));
    one.setAttribute("aria-label", `block ${block}: ${name}`);
  });
  put($("clock"), `${app.seconds.toFixed(1)} s`);
  put($("came"), `${bytesIn(arrivedBytes())} of ${bytesIn(wholeSize())}`);
}

function pace() {
  put($("pace"), app.predictions
    ? `${app.predictions} predictions; the first after ${secondsIn(app.firstPrediction)}, with ${bytesIn(app.bytesAtFirst)}; ` +
      `longest gap between two ${Math.round(Math.max(0, ...app.gaps))} ms, median ${Math.round(median(app.gaps) ?? 0)} ms.`
    : "");
}

function clock() {
  const now = performance.now();
  if (app.phase === "loading") app.seconds += (now - ticking) / 1000;
  ticking = now;
}

function tick() {
  if (app.phase !== "loading") return;
  clock();
  fill();
  pace();
  chart.at(app.seconds);
  requestAnimationFrame(tick);
}

function controls() {
  const { phase } = app, words = { loading: "Pause", paused: "Go on" };
  Object.assign(/** @type {HTMLElement} */ (document.querySelector("main")).dataset, { phase, model: select("model").value });
  put(button("load"), words[/** @type {"loading"} */ (phase)] ?? "Load");
  button("load").disabled = !["ready", "loading", "paused", "done"].includes(phase);
  button("restart").disabled = ["starting", "ready", "broken"].includes(phase);
  button("count").disabled = !running();
  for (const id of ["model", "order", "precision", "rate"]) select(id).disabled = ["starting", "loading", "paused", "broken"].includes(phase);
  if (phase !== "broken") $("problem").hidden = phase !== "failed";
}

function bars() {
  $("bars").replaceChildren(...app.model.class_names.flatMap((name) => {
    const bar = make("span", { className: "bar" });
    make("i", {}, bar);
    return [make("span", { textContent: name }), bar, make("span", { className: "share", textContent: "…" })];
  }));
  put($("which"), app.picture.words);
}

/** The pictures that the student gets wrong and the teacher right come first: there is something to see. */
function inGallery() {
  const { changes } = app.model.images;
  return [...changes.map((i) => app.pictures[i]), ...app.pictures.filter((_, i) => !changes.includes(i))];
}

function gallery() {
  const begin = app.page * SHOWN_AT_ONCE, shown = inGallery().slice(begin, begin + SHOWN_AT_ONCE);
  $("gallery").replaceChildren(...shown.map((picture) => {
    const one = make("button", { type: "button", title: picture.words, ariaLabel: picture.words, onclick: () => choose(picture) });
    one.setAttribute("aria-pressed", String(picture === app.picture));
    show(make("canvas", { ariaHidden: "true" }, one), picture.pixels, app.model.inputs);
    return one;
  }));
  button("earlier").disabled = begin === 0;
  button("later").disabled = begin + SHOWN_AT_ONCE >= app.pictures.length;
}

/** @param {Picture} picture */
function choose(picture) {
  app.picture = picture;
  const begin = app.page * SHOWN_AT_ONCE, shown = inGallery();
  [...$("gallery").children].forEach((one, i) => one.setAttribute("aria-pressed", String(shown[begin + i] === picture)));
  show(/** @type {HTMLCanvasElement} */ ($("seen")), picture.pixels, app.model.inputs);
  put($("which"), picture.words);
  predict();
}

/** The drawing canvas is that of the notebooks; a widget's model is all that it knows. */
function ownPictures() {
  const model = {
    set: async (/** @type {string} */ _name, /** @type {DataView<ArrayBuffer>} */ file) => {
      put($("refused"), "");
      if (!file.byteLength) return;
      try {
        choose({ pixels: await pictureFrom(file, app.model.inputs), words: "your picture", label: null });
      } catch (error) {
        if (!(error instanceof PictureError)) throw error;
        put($("refused"), error.message);
      }
    },
    save_changes: () => {},
  };
  canvas.render({ model, el: $("own") });
}

button("load").onclick = async () => {
  if (app.phase === "done") await restart();
  if (app.phase === "ready") return load();
  clock();
  if (app.phase === "loading") {
    app.phase = "paused";
    app.link.pause();
  } else {
    app.phase = "loading";
    app.link.resume();
    requestAnimationFrame(tick);
  }
  return controls();
};
button("restart").onclick = restart;
button("retry").onclick = load;
button("count").onclick = countRight;
button("follow").onclick = () => {
  app.chosen = "";
  swapped();
};
button("earlier").onclick = () => { app.page -= 1; gallery(); };
button("later").onclick = () => { app.page += 1; gallery(); };
select("model").onchange = () => open().catch((error) => broken(`This network cannot be opened: ${said(error)}.`));
select("order").onchange = restart;
select("precision").onchange = restart;
select("rate").onchange = restart;
ownPictures();
start();
