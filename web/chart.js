// Accuracy against seconds: a step curve that draws itself while blocks arrive, and what else the same link could have brought.

import { draw } from "./player.js";

const LEFT = 48, RIGHT = 12, TOP = 30, BOTTOM = 40;

/** @typedef {{ seconds: number, accuracy: number, mask: string }} Point */
/** @typedef {{ name: string, seconds: number, accuracy: number, colour: string, dashes: string }} Rival */

export class Chart {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
    this.svg = draw("svg", { role: "img", "aria-label": "accuracy against seconds; the line below it says the same in words" }, place);
    /** @type {Point[]} */
    this.points = [];
    /** @type {Rival[]} */
    this.rivals = [];
    this.seconds = 0;
    this.expected = 1;
    this.range = [0, 1];
    new ResizeObserver(() => this.redraw()).observe(place);
  }

  /**
   * @param {Point[]} points one for each network that has answered
   * @param {Rival[]} rivals other ways over the same link: from when on they answer, and how well
   * @param {number[]} accuracies all that can be reached
   * @param {number} expected seconds until everything has arrived
   */
  set(points, rivals, accuracies, expected) {
    const low = Math.min(...accuracies), high = Math.max(...accuracies), room = 0.08 * (high - low) || 0.01;
    Object.assign(this, { points, rivals, expected, range: [low - room, high + room] });
    this.redraw();
  }

  /** @param {number} seconds the clock */
  at(seconds) {
    this.seconds = seconds;
    this.redraw();
  }

  redraw() {
    const width = Math.max(260, this.place.clientWidth), height = Math.max(220, Math.min(300, width * 0.6));
    const longest = 1.04 * Math.max(this.expected, this.seconds, 0.2), [low, high] = this.range;
    const x = (/** @type {number} */ seconds) => LEFT + ((width - LEFT - RIGHT) * Math.min(seconds, longest)) / longest;
    const y = (/** @type {number} */ accuracy) => height - BOTTOM - ((height - BOTTOM - TOP) * (accuracy - low)) / (high - low);
    this.svg.setAttribute("width", String(width));
    this.svg.setAttribute("height", String(height));
    this.svg.replaceChildren();
    for (const value of ticks(low, high)) {
      draw("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), stroke: "#E5E5E5" }, this.svg);
      draw("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, this.svg, `${Number((100 * value).toPrecision(4))}%`);
    }
    for (const value of ticks(0, longest)) draw("text", { x: x(value), y: height - 22, "text-anchor": "middle" }, this.svg, String(value));
    draw("line", { x1: LEFT, x2: width - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM, stroke: "#444" }, this.svg);
    draw("text", { x: width - RIGHT, y: height - 5, "text-anchor": "end" }, this.svg, "seconds since Load");
    draw("text", { x: 4, y: 13 }, this.svg, "test accuracy");
    for (const { seconds, accuracy, colour, dashes } of this.rivals) {
      const d = `M${x(seconds)} ${height - BOTTOM}V${y(accuracy)}H${width - RIGHT}`;
      draw("path", { d, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashes }, this.svg);
    }
    if (!this.points.length) return;
    const corners = this.points.map((point, i) => `${i ? "H" : "M"}${x(point.seconds)}${i ? "V" : " "}${y(point.accuracy)}`);
    draw("path", { d: `${corners.join("")}H${x(Math.max(this.seconds, this.points.at(-1)?.seconds ?? 0))}`, fill: "none", stroke: "#D55E00", "stroke-width": 3.5 }, this.svg);
    let free = LEFT; // labels that would overlap are left out
    for (const point of this.points) {
      draw("circle", { cx: x(point.seconds), cy: y(point.accuracy), r: 4, fill: "#D55E00" }, this.svg);
      const half = 4 * point.mask.length, middle = Math.min(Math.max(x(point.seconds), LEFT + half), width - half);
      if (middle - half < free) continue;
      free = middle + half + 6;
      draw("text", { x: middle, y: TOP - 4, "text-anchor": "middle", class: "mask" }, this.svg, point.mask);
    }
  }
}

/** Round numbers between two values. @param {number} from @param {number} to */
function ticks(from, to) {
  const coarse = 10 ** Math.floor(Math.log10((to - from) / 4));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * coarse).find((one) => one * 5 >= to - from) ?? coarse;
  const first = Math.ceil(from / step - 1e-9), last = Math.floor(to / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}
