// Pictures for the network: test images, and the reader's own, prepared as `pwl_lab.study.uploads` does it.

const LARGEST = 512; // pixels per side after a first scaling
const BACKGROUND = 26; // of 255: how much a pixel may differ from the border and still be background (a tenth)

/** @typedef {{ shape: [number, number, number], mean: number[], std: number[] }} Inputs */

/** Why a picture cannot be used, in words for a reader. */
export class PictureError extends Error {}

/**
 * Bytes (channels first) as the network was trained on them.
 * @param {ArrayLike<number>} bytes one or more pictures
 * @param {Inputs} inputs
 */
export function normalise(bytes, inputs) {
  const [channels, height, width] = inputs.shape, plane = height * width;
  const { mean, std } = inputs;
  return Float32Array.from(bytes, (value, i) => {
    const channel = Math.floor(i / plane) % channels;
    return mean.length ? (value - 255 * mean[channel]) / (255 * std[channel]) : value;
  });
}

/**
 * Shows a picture as the network sees it: one canvas pixel for each of its own.
 * @param {HTMLCanvasElement} canvas
 * @param {ArrayLike<number>} bytes channels first
 * @param {Inputs} inputs
 */
export function show(canvas, bytes, inputs) {
  const [channels, height, width] = inputs.shape, plane = height * width;
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[channels === 3 ? c * plane + i : i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d")?.putImageData(image, 0, 0);
}

/**
 * A picture file's pixels, prepared like the images the network knows. Raises PictureError.
 * @param {BufferSource} file
 * @param {Inputs} inputs
 * @returns {Promise<Uint8Array>} channels first
 */
export async function pictureFrom(file, inputs) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([file]));
  } catch {
    throw new PictureError("This file cannot be read as a picture. PNG, JPEG, GIF and WebP files can.");
  }
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale)), height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new PictureError("This browser cannot draw pictures.");
  Object.assign(context, { fillStyle: "white", imageSmoothingQuality: "high" });
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return prepared(context.getImageData(0, 0, width, height), inputs);
}

/**
 * @param {{ data: ArrayLike<number>, width: number, height: number }} picture RGBA
 * @param {Inputs} inputs
 */
export function prepared(picture, inputs) {
  const [channels, height, width] = inputs.shape;
  const planes = [0, 1, 2].map((c) => plane(picture, (i) => picture.data[4 * i + c]));
  if (channels === 3) return Uint8Array.from(planes.flatMap((one) => [...fitted(one, width, height).pixels]));
  const grey = plane(picture, (i) => {
    const [red, green, blue] = planes.map((one) => one.pixels[i]);
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  });
  return padded(brightOnBlack(grey), width, height);
}

/** @typedef {{ pixels: Float32Array, width: number, height: number }} Plane */

/** @param {{ width: number, height: number }} size @param {(i: number) => number} value @returns {Plane} */
function plane({ width, height }, value) {
  return { width, height, pixels: Float32Array.from({ length: width * height }, (_, i) => value(i)) };
}

/**
 * The picture without its plain border, on black.
 * @param {Plane} grey
 */
function brightOnBlack({ pixels, width, height }) {
  const at = (/** @type {number} */ x, /** @type {number} */ y) => pixels[y * width + x];
  const edge = [];
  for (let x = 0; x < width; x++) edge.push(at(x, 0), at(x, height - 1));
  for (let y = 0; y < height; y++) edge.push(at(0, y), at(width - 1, y));
  edge.sort((a, b) => a - b);
  let border = (edge[Math.floor((edge.length - 1) / 2)] + edge[Math.ceil((edge.length - 1) / 2)]) / 2;
  if (border > 127) {
    pixels = pixels.map((value) => 255 - value);
    border = 255 - border;
  }
  let [left, right, top, bottom] = [width, -1, height, -1];
  pixels.forEach((value, i) => {
    if (Math.abs(value - border) <= BACKGROUND) return;
    const x = i % width, y = Math.floor(i / width);
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  });
  if (right < 0) throw new PictureError("There is nothing to see in this picture: it has a single shade.");
  const size = { width: right - left + 1, height: bottom - top + 1 };
  return plane(size, (i) => {
    const value = at(left + (i % size.width), top + Math.floor(i / size.width));
    return Math.floor((Math.max(0, value - border) * 255) / (255 - border)); // pixels as dark as the border become black
  });
}

/**
 * The picture scaled to fit, in the middle of a black one.
 * @param {Plane} picture @param {number} width @param {number} height
 */
function padded(picture, width, height) {
  const scale = Math.min(width / picture.width, height / picture.height);
  const small = resized(picture, Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale)));
  const result = new Uint8Array(width * height);
  const left = Math.round((width - small.width) / 2), top = Math.round((height - small.height) / 2);
  small.pixels.forEach((value, i) => { result[(top + Math.floor(i / small.width)) * width + left + (i % small.width)] = value; });
  return result;
}

/** The picture's middle, scaled to fill. @param {Plane} picture @param {number} width @param {number} height */
function fitted(picture, width, height) {
  const scale = Math.min(picture.width / width, picture.height / height);
  const [w, h] = [width * scale, height * scale];
  return resized(picture, width, height, [(picture.width - w) / 2, (picture.height - h) / 2, w, h]);
}

/**
 * Lanczos scaling (three lobes), along rows and then along columns, rounded to whole grey levels each time, as Pillow does it.
 * @param {Plane} picture @param {number} width @param {number} height
 * @param {number[]} box the part of the picture that is scaled: left, top, width, height
 * @returns {Plane}
 */
export function resized(picture, width, height, [left, top, w, h] = [0, 0, picture.width, picture.height]) {
  const across = weights(picture.width, width, left, w), down = weights(picture.height, height, top, h);
  const level = (/** @type {number} */ value) => Math.min(255, Math.max(0, Math.round(value)));
  const rows = plane({ width, height: picture.height }, (i) => {
    const { first, share } = across[i % width], y = Math.floor(i / width);
    return level(share.reduce((sum, one, k) => sum + one * picture.pixels[y * picture.width + first + k], 0));
  });
  return plane({ width, height }, (i) => {
    const { first, share } = down[Math.floor(i / width)];
    return level(share.reduce((sum, one, k) => sum + one * rows.pixels[(first + k) * width + (i % width)], 0));
  });
}

/** The pixels that each new pixel is made of, and their shares. @param {number} from @param {number} to @param {number} start @param {number} length */
function weights(from, to, start, length) {
  const scale = length / to, wide = Math.max(scale, 1), support = 3 * wide;
  const sinc = (/** @type {number} */ x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
  const kernel = (/** @type {number} */ x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);
  return Array.from({ length: to }, (_, i) => {
    const middle = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(middle - support + 0.5)), last = Math.min(from, Math.floor(middle + support + 0.5));
    const raw = Array.from({ length: last - first }, (_unused, k) => kernel((first + k - middle + 0.5) / wide));
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, share: raw.map((one) => one / sum) };
  });
}
