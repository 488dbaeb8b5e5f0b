// A caption as pictures, drawn while it is typed. All state is in the address, so that a page can be shared.

const WAIT = 150; // milliseconds after a key, before anything is drawn
const AT_ONCE = 4;
const LARGEST_SEED = 2 ** 32 - 1;

const find = (id) => document.getElementById(id);
const fields = Object.fromEntries(
  ["caption", "model", "seed", "count", "truncation"].map((name) => [name, find(name)]),
);
let models = [];
let timer = 0;
let running = new AbortController();

const model = () => models.find((one) => one.id === fields.model.value) ?? models[0];

async function get(url, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(url, { ...options, headers });
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: { message: answer.statusText } }));
  if (answer.status === 401) {
    find("key-field").hidden = false;
    find("key").focus();
  }
  throw Object.assign(new Error(error.message), { status: answer.status, retry: Number(answer.headers.get("retry-after-ms")) });
}

function pictureUrl(seed) {
  const query = new URLSearchParams({ caption: fields.caption.value, seed });
  if (fields.truncation.value !== "1") query.set("truncation", fields.truncation.value);
  query.set("v", model().digest);
  return `v1/pictures/${encodeURIComponent(model().id)}.png?${query}`;
}

function seeds() {
  const first = Math.min(Math.max(0, Math.floor(Number(fields.seed.value) || 0)), LARGEST_SEED);
  return Array.from({ length: Number(fields.count.value) }, (_, i) => first + i).filter((seed) => seed <= LARGEST_SEED);
}

// A stopped server or a full queue is tried again for as long as the caption stays.
async function fetchPicture(url, signal) {
  for (;;) {
    try {
      return await get(url, { signal });
    } catch (error) {
      if (error.status !== 429 && error.status !== 503) throw error;
      await new Promise((done) => setTimeout(done, error.retry || 1000));
      signal.throwIfAborted();
    }
  }
}

async function draw() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  if (!models.length) return;
  remember();
  const list = find("pictures");
  if (!fields.caption.value.trim()) return clear("");
  const wanted = seeds();
  list.ariaBusy = true;
  const start = performance.now();
  const timings = [];
  let next = 0;
  while (list.children.length > wanted.length) list.lastElementChild.remove();
  while (list.children.length < wanted.length) list.append(cell());
  const lane = async () => {
    while (next < wanted.length) {
      const number = next++;
      const url = pictureUrl(wanted[number]);
      const answer = await fetchPicture(url, signal);
      if (number === 0) tellWords(answer.headers);
      timings.push(answer.headers.get("server-timing"));
      show(list.children[number], await answer.blob(), url, wanted[number]);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    list.ariaBusy = false;
    const drawing = timings.map((text) => Number(/draw;dur=([\d.]+)/.exec(text)?.[1] ?? NaN)).filter(Number.isFinite);
    const mean = drawing.reduce((a, b) => a + b, 0) / drawing.length;
    find("timings").textContent =
      `${wanted.length} picture${wanted.length > 1 ? "s" : ""} in ${Math.round(performance.now() - start)} ms, ` +
      `${mean.toFixed(1)} ms of the generator for each`;
  } catch (error) {
    if (error.name === "AbortError") return;
    clear(error.message, true);
  }
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

function show(item, blob, url, seed) {
  const [link, image, text] = [item.firstElementChild, item.querySelector("img"), item.querySelector("span")];
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.alt = fields.caption.value;
  link.href = url;
  text.textContent = `seed ${seed}`;
}

function say(text, alarm = false) {
  find("words").textContent = text;
  find("words").classList.toggle("alarm", alarm);
}

// Headers list words that were read as known ones, "ocean=sea", and words that were left out, "brench;near=branch".
function tellWords(headers) {
  const listed = (name, between) =>
    (headers.get(name) ?? "").split(", ").filter(Boolean).map((item) => item.split(between).map(decodeURIComponent));
  const read = listed("t2i-read-as", "=").map(([word, known]) => `“${word}” as “${known}”`);
  const unknown = listed("t2i-unknown-words", ";near=");
  say((read.length ? `Read ${read.join(", ")}. ` : "") + (unknown.length ? "Unknown to the model, and left out: " : ""));
  unknown.forEach(([word, ...near], number) => {
    find("words").append(`${number ? ", " : ""}“${word}”`);
    for (const other of near) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = other;
      button.setAttribute("aria-label", `Write ${other} instead of ${word}`);
      button.onclick = () => {
        const whole = new RegExp(`(?<![\\p{L}\\p{N}_])${word}(?![\\p{L}\\p{N}_])`, "giu"); // \b is for ASCII alone
        fields.caption.value = fields.caption.value.replace(whole, other);
        fields.caption.focus();
        draw();
      };
      find("words").append(" ", button);
    }
  });
}

function remember() {
  const { caption, model: name, seed, count, truncation } = fields;
  find("shown-truncation").textContent = truncation.value;
  const query = new URLSearchParams({ caption: caption.value, model: name.value, seed: seed.value, count: count.value, truncation: truncation.value });
  history.replaceState(null, "", `?${query}`);
  const body = { model: name.value, prompt: caption.value, n: Math.min(10, seeds().length), seed: seeds()[0], truncation: Number(truncation.value) };
  const base = new URL("v1", location.href).href;
  const needsKey = sessionStorage.getItem("key") !== null;
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  find("curl").textContent = `curl ${base}/images/generations -H 'Content-Type: application/json'${needsKey ? " -H 'Authorization: Bearer KEY'" : ""} -d '${quoted}'`;
  const extra = `{"seed": ${body.seed}, "truncation": ${body.truncation}}`;
  find("python").textContent =
    `from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(base)}, api_key="${needsKey ? "KEY" : "none"}")\n` +
    `answer = client.images.generate(\n    model=${JSON.stringify(body.model)}, prompt=${JSON.stringify(body.prompt)}, n=${body.n}, extra_body=${extra}\n)`;
}

async function start() {
  try {
    models = (await (await get("v1/models")).json()).data;
  } catch (error) {
    return say(error.message, true);
  }
  find("key-field").hidden = true;
  fields.model.replaceChildren(...models.map((one) => new Option(one.id)));
  const query = new URLSearchParams(location.search);
  const defaults = { caption: "a yellow bird", seed: 0, truncation: 1 };
  for (const [name, field] of Object.entries(fields)) {
    const value = query.get(name) ?? defaults[name];
    if (value !== undefined) field.value = value;
  }
  fields.model.value ||= models[0].id;
  describe();
  draw();
}

function describe() {
  const { id, size, runs_as: runsAs, license } = model();
  find("served").textContent = `${id}: ${size.replace("x", " × ")} pixels, ${runsAs}${license ? `; ${license}` : ""}`;
}

for (const field of Object.values(fields)) {
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(draw, WAIT);
  });
}
fields.model.addEventListener("change", describe);
find("more").addEventListener("click", () => {
  const after = seeds().at(-1) + 1;
  fields.seed.value = after + Number(fields.count.value) > LARGEST_SEED ? 0 : after;
  draw();
});
find("key").addEventListener("change", (event) => {
  sessionStorage.setItem("key", event.target.value);
  start();
});
// A page from another machine has no clipboard, unless it came by TLS.
function copy(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  getSelection().selectAllChildren(element);
  document.execCommand("copy");
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await copy(find(button.dataset.copy));
    const { textContent } = button;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = textContent), 1500);
  });
}
start();
