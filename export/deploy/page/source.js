// Where the page's pictures come from: this machine. A worker draws them, and a service worker keeps the files.

import "./site.js";

export const AT_ONCE = 2; // so that one is drawn while the other is shown

const { SITE } = self;
const answers = new Map();
let worker;

// The models: [{id, size, runs_as, license}]. `progress` is told what is being loaded, and the share loaded so far.
export async function open(progress) {
  await keepFiles();
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, result, error, loading } }) => {
    if (loading) return progress(loading.text, loading.share);
    const { resolve, reject } = answers.get(id);
    answers.delete(id);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  };
  worker.onerror = () => answers.forEach(({ reject }) => reject(new Error("the page's files cannot be loaded; load it again")));
  return [{ id: SITE.name, size: SITE.size, runs_as: await ask("open"), license: SITE.license }];
}

// One picture: {content: Blob, url, milliseconds, readAs: [[word, known]], unknown: [[word, ...near]]}.
export async function draw({ caption, truncation }, seed) {
  return { ...(await ask("draw", caption, seed, truncation)), url: `?${new URLSearchParams({ caption, seed, truncation, count: 1 })}` };
}

// Code that draws the same, by language.
export function examples({ caption, truncation }, seeds) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const range = seeds.length > 1 ? `${seeds[0]}-${seeds.at(-1)}` : `${seeds[0]}`;
  const cut = truncation === 1 ? "" : ` --truncation ${truncation}`;
  const argument = truncation === 1 ? "" : `, truncation=${truncation}`;
  return {
    Shell: `t2i-engine generate --bundle ${SITE.name} --seeds ${range}${cut} -- ${quote(caption)}`,
    Python:
      `from t2i_engine import Engine\n\nengine = Engine.open("${SITE.name}")\n` +
      `picture = engine.generate(${JSON.stringify(caption)}, seed=${seeds[0]}${argument})\npicture.save("picture.png")`,
  };
}

function ask(method, ...parameters) {
  const id = crypto.getRandomValues(new Uint32Array(2)).join();
  return new Promise((resolve, reject) => {
    answers.set(id, { resolve, reject });
    worker.postMessage({ id, method, parameters });
  });
}

// Waits for the service worker on the first visit, so that what is loaded now passes through it. Without TLS, or where
// the browser keeps nothing, there is none, and the page works only online.
async function keepFiles() {
  try {
    const registration = await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
    const installing = registration.installing ?? registration.waiting;
    if (registration.active || !installing) return;
    await new Promise((done) => {
      installing.addEventListener("statechange", () => ["activated", "redundant"].includes(installing.state) && done());
    });
  } catch {
    return; // nothing is kept
  }
}
