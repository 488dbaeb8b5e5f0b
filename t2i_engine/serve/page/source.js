// Where the page's pictures come from: the server. The page of `t2i-engine deploy web` has another source.js.

export const AT_ONCE = 4;

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

async function get(url, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(url, { ...options, headers });
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: { message: answer.statusText } }));
  throw Object.assign(new Error(error.message), { status: answer.status, retry: Number(answer.headers.get("retry-after-ms")) });
}

// The models: [{id, size, runs_as, license, …}].
export async function open() {
  return (await (await get("v1/models")).json()).data;
}

// One picture: {content: Blob, url, milliseconds, readAs: [[word, known]], unknown: [[word, ...near]]}.
export async function draw({ model, caption, truncation }, seed, signal) {
  const query = new URLSearchParams({ caption, seed });
  if (truncation !== 1) query.set("truncation", truncation);
  query.set("v", model.digest);
  const url = `v1/pictures/${encodeURIComponent(model.id)}.png?${query}`;
  const answer = await retried(url, signal);
  const milliseconds = Number(/draw;dur=([\d.]+)/.exec(answer.headers.get("server-timing"))?.[1] ?? NaN);
  // Headers list words that were read as known ones, "ocean=sea", and words that were left out, "brench;near=branch".
  const listed = (name, between) =>
    (answer.headers.get(name) ?? "").split(", ").filter(Boolean).map((item) => item.split(between).map(decodeURIComponent));
  const words = { readAs: listed("t2i-read-as", "="), unknown: listed("t2i-unknown-words", ";near=") };
  return { content: await answer.blob(), url, milliseconds, ...words };
}

// Retries while the server is stopping or its queue is full, until the caption changes.
async function retried(url, signal) {
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

// Code that draws the same, by language.
export function examples({ model, caption, truncation }, seeds) {
  const body = { model: model.id, prompt: caption, n: Math.min(10, seeds.length), seed: seeds[0], truncation };
  const base = new URL("v1", location.href).href;
  const needsKey = sessionStorage.getItem("key") !== null;
  const header = needsKey ? " -H 'Authorization: Bearer KEY'" : "";
  const extra = `{"seed": ${body.seed}, "truncation": ${body.truncation}}`;
  return {
    curl: `curl ${base}/images/generations -H 'Content-Type: application/json'${header} -d ${quote(JSON.stringify(body))}`,
    Python:
      `from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(base)}, api_key="${needsKey ? "KEY" : "none"}")\n` +
      `answer = client.images.generate(\n    model=${JSON.stringify(body.model)}, prompt=${JSON.stringify(body.prompt)}, n=${body.n}, extra_body=${extra}\n)`,
  };
}
