// Draws pictures in the background of the page: the bundle's graphs in ONNX Runtime, on WebGPU or in WebAssembly.

import "./site.js";
import { normals } from "./noise.js";
import { Tokenizer } from "./tokenizer.js";

const { SITE } = self;
const TITLES = { webgpu: "WebGPU", wasm: "WebAssembly" };
const MOST_THREADS = 4;
const LEVELS = 1; // of 255, by which a picture may differ from PyTorch's

let ort, tokenizer, textEncoder, generator;
let last = {}; // the caption that was drawn last, and its sentence
let queue = Promise.resolve();

self.onmessage = ({ data: { id, method, parameters } }) => {
  queue = queue
    .then(() => ({ open, draw })[method](...parameters))
    .then((result) => postMessage({ id, result }), (error) => postMessage({ id, error: error?.message ?? String(error) }));
};

// Loads everything, and says what it runs on: the first device that draws the bundle's reference as PyTorch does.
async function open() {
  const failed = [];
  for (const device of (await hasGpu()) ? ["webgpu", "wasm"] : ["wasm"]) {
    try {
      return [await openOn(device), ...failed].join("; ");
    } catch (error) {
      failed.push(`not ${TITLES[device]}: ${error?.message ?? error}`);
    }
  }
  throw new Error(`this browser cannot draw: ${failed.join("; ")}`);
}

async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && !adapter.info?.isFallbackAdapter); // a fallback is the CPU, and slower than WebAssembly
}

async function openOn(device) {
  const { module, wasm } = SITE.runtimes[device];
  const { content, megabytes } = await load({ ...SITE.model, wasm });
  const parse = (file) => file && JSON.parse(new TextDecoder().decode(file));
  tokenizer = new Tokenizer(parse(content.vocabulary), parse(content.near_words));
  ort = await import(new URL(module.url, import.meta.url).href);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.wasmBinary = await unzipped(content.wasm);
  const session = (graph, on) => ort.InferenceSession.create(graph, { executionProviders: [on], logSeverityLevel: 3 });
  textEncoder = await session(content.text_encoder, "wasm"); // an LSTM does not suit a GPU
  generator = await session(content.generator, device);
  last = {};
  const { pixels } = await drawPixels(SITE.reference.caption, SITE.reference.seed, 1);
  const off = pixels.reduce((most, level, at) => Math.max(most, Math.abs(level - content.reference[at])), 0);
  if (off > LEVELS || pixels.length !== content.reference.length) throw new Error(`its picture is ${off} levels from the reference`);
  const threads = ort.env.wasm.numThreads > 1 ? `, ${ort.env.wasm.numThreads} threads` : "";
  return `drawn on this machine by ONNX Runtime Web ${ort.env.versions.web} (${TITLES[device]}${threads}); ${megabytes} loaded`;
}

// The content of files by name, Uint8Array; the page is told how much has arrived.
async function load(files) {
  const bytes = Object.values(files).reduce((sum, { size }) => sum + size, 0);
  const megabytes = `${(bytes / 1e6).toFixed(1)} MB`;
  let there = 0;
  const content = {};
  const loadOne = async ([name, { url, size }]) => {
    const answer = await fetch(new URL(url, import.meta.url));
    if (!answer.ok) throw new Error(`${url} cannot be loaded (${answer.status})`);
    content[name] = new Uint8Array(size);
    const reader = answer.body.getReader();
    for (let at = 0; ; ) {
      const { done, value } = await reader.read();
      if (done && at < size) throw new Error(`${url} is truncated`);
      if (done) return;
      content[name].set(value, at);
      at += value.length;
      there += value.length;
      postMessage({ loading: { text: `Loading ${megabytes}, which the browser keeps …`, share: there / bytes } });
    }
  };
  await Promise.all(Object.entries(files).map(loadOne));
  return { content, megabytes };
}

async function unzipped(content) {
  return new Response(new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// One picture: {content: Blob, milliseconds, readAs, unknown: [[word, ...near]]}.
async function draw(caption, seed, truncation) {
  const { pixels, read, milliseconds } = await drawPixels(caption, seed, truncation);
  const side = Math.sqrt(pixels.length / 3);
  const image = new ImageData(side, side);
  image.data.fill(255);
  for (let at = 0; at < side * side; at++) image.data.set(pixels.subarray(3 * at, 3 * at + 3), 4 * at);
  const canvas = new OffscreenCanvas(side, side);
  canvas.getContext("2d").putImageData(image, 0, 0);
  const unknown = read.unknown.slice(0, 5).map((word) => [word, ...tokenizer.nearest(word)]);
  return { content: await canvas.convertToBlob(), milliseconds, readAs: read.readAs.slice(0, 5), unknown };
}

async function drawPixels(caption, seed, truncation) {
  const start = performance.now();
  if (last.caption !== caption) {
    const read = tokenizer.encode(caption);
    const tokens = new ort.Tensor("int64", BigInt64Array.from(read.ids, BigInt), [1, read.ids.length]);
    const lengths = new ort.Tensor("int64", BigInt64Array.of(BigInt(read.ids.length)), [1]);
    last = { caption, read, ...(await textEncoder.run({ tokens, lengths })) };
  }
  const [width, condition] = [SITE.noise_width, SITE.sentence_width];
  const drawn = normals(seed, width + condition, truncation);
  const feeds = { noise: new ort.Tensor("float32", drawn.subarray(0, width), [1, width]), sentence: last.sentence };
  if (SITE.condition_noise) feeds.condition_noise = new ort.Tensor("float32", drawn.subarray(width), [1, condition]);
  const { pixels } = await generator.run(feeds, ["pixels"]);
  return { pixels: pixels.data, read: last.read, milliseconds: performance.now() - start };
}
