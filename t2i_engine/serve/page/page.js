// Draws pictures of a caption while it is typed. All state is in the address, so that a page can be shared.

import { AT_ONCE, draw, examples, open } from "./source.js";

const WAIT = 150; // milliseconds after a key, before anything is drawn
const LARGEST_SEED = 2 ** 32 - 1;

const find = (id) => document.getElementById(id);
const fields = Object.fromEntries(
  ["caption", "model", "seed", "count", "truncation"].map((name) => [name, find(name)]),
);
const query = new URLSearchParams(location.search);
const defaults = { caption: "a yellow bird", seed: 0, truncation: 1 };
let models = [];
let timer = 0;
let running = new AbortController();

const model = () => models.find((one) => one.id === fields.model.value) ?? models[0];
const order = () => ({ model: model(), caption: fields.caption.value, truncation: Number(fields.truncation.value) });

function seeds() {
  const first = Math.min(Math.max(0, Math.floor(Number(fields.seed.value) || 0)), LARGEST_SEED);
  return Array.from({ length: Number(fields.count.value) }, (_, i) => first + i).filter((seed) => seed <= LARGEST_SEED);
}

async function drawAll() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  if (!models.length) return;
  remember();
  const list = find("pictures");
  if (!fields.caption.value.trim()) return clear("");
  const [wanted, asked] = [seeds(), order()];
  list.ariaBusy = true;
  const start = performance.now();
  const timings = [];
  let next = 0;
  while (list.children.length > wanted.length) list.lastElementChild.remove();
  while (list.children.length < wanted.length) list.append(cell());
  const lane = async () => {
    while (next < wanted.length) {
      const number = next++;
      const picture = await draw(asked, wanted[number], signal);
      signal.throwIfAborted();
      if (number === 0) tellWords(picture);
      timings.push(picture.milliseconds);
      show(list.children[number], picture, wanted[number]);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    list.ariaBusy = false;
    const drawing = timings.filter(Number.isFinite);
    const mean = drawing.reduce((a, b) => a + b, 0) / drawing.length;
    find("timings").textContent =
      `${wanted.length} picture${wanted.length > 1 ? "s" : ""} in ${Math.round(performance.now() - start)} ms, ` +
      `${mean.toFixed(1)} ms of generator time each`;
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) fail(error);
  }
}

function fail(error) {
  if (error.status === 401) {
    find("key-field").hidden = false;
    find("key").focus();
  }
  clear(error.message, true);
}

function clear(text, alarm = false) {
  find("pictures").replaceChildren();
  find("pictures").ariaBusy = false;
  find("timings").textContent = "";
  say(text, alarm);
}

function cell() {
  const item = document.createElement("li");
  item.innerHTML = '<a><img alt="" width="128" height="128"><span></span></a>';
  return item;
}

function show(item, { content, url }, seed) {
  const [link, image, text] = [item.firstElementChild, item.querySelector("img"), item.querySelector("span")];
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(content);
  image.alt = fields.caption.value;
  link.href = url;
  text.textContent = `seed ${seed}`;
}

function say(text, alarm = false) {
  find("words").textContent = text;
  find("words").classList.toggle("alarm", alarm);
}

function tellWords({ readAs, unknown }) {
  const focused = find("words").contains(document.activeElement) && document.activeElement.ariaLabel;
  const read = readAs.map(([word, known]) => `“${word}” as “${known}”`);
  say((read.length ? `Read ${read.join(", ")}. ` : "") + (unknown.length ? "Unknown to the model, and left out: " : ""));
  unknown.forEach(([word, ...near], number) => {
    find("words").append(`${number ? ", " : ""}“${word}”`);
    for (const other of near) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = other;
      button.ariaLabel = `Write ${other} instead of ${word}`;
      button.onclick = () => {
        const whole = new RegExp(`(?<![\\p{L}\\p{N}_])${word}(?![\\p{L}\\p{N}_])`, "giu"); // \b is ASCII-only
        fields.caption.value = fields.caption.value.replace(whole, other);
        fields.caption.focus();
        drawAll();
      };
      find("words").append(" ", button);
      if (button.ariaLabel === focused) button.focus(); // new pictures must not take the keyboard's focus
    }
  });
}

function remember() {
  find("shown-truncation").textContent = fields.truncation.value;
  const state = Object.entries(fields).map(([name, field]) => [name, field.value]);
  history.replaceState(null, "", `?${new URLSearchParams(state)}`);
  for (const [language, code] of Object.entries(examples(order(), seeds()))) {
    const id = language.toLowerCase();
    if (!find(id)) find("code").append(example(id, language));
    find(id).textContent = code;
  }
}

function example(id, language) {
  const block = document.createElement("div");
  block.className = "code";
  block.innerHTML = `<pre id="${id}"></pre><button type="button" data-copy="${id}">Copy ${language}</button>`;
  const [code, button] = block.children;
  button.addEventListener("click", async () => {
    await copy(code);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = `Copy ${language}`), 1500);
  });
  return block;
}

// A page from another machine has no clipboard, unless it was served over TLS.
function copy(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  getSelection().selectAllChildren(element);
  document.execCommand("copy");
}

function loading(text, share) {
  find("served").textContent = text;
  find("loading").hidden = false;
  find("loading").value = share;
}

async function start() {
  try {
    models = await open(loading);
  } catch (error) {
    return fail(error);
  } finally {
    find("loading").hidden = true;
  }
  find("key-field").hidden = true;
  fields.model.replaceChildren(...models.map((one) => new Option(one.id)));
  fields.model.value = query.get("model");
  fields.model.value ||= models[0].id;
  describe();
  drawAll();
}

function describe() {
  const { id, size, runs_as: runsAs, license } = model();
  find("served").textContent = `${id}: ${size.replace("x", " × ")} pixels, ${runsAs}${license ? `; ${license}` : ""}`;
}

for (const [name, field] of Object.entries(fields)) {
  field.value = query.get(name) ?? defaults[name] ?? field.value; // at once: loading may take seconds
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(drawAll, WAIT);
  });
}
fields.model.addEventListener("change", describe);
find("more").addEventListener("click", () => {
  const after = seeds().at(-1) + 1;
  fields.seed.value = after + Number(fields.count.value) > LARGEST_SEED ? 0 : after;
  drawAll();
});
find("key").addEventListener("change", (event) => {
  sessionStorage.setItem("key", event.target.value);
  start();
});
start();
