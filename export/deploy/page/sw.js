// Keeps the page's files for visits without a network. The browser reinstalls it whenever site.js has changed.

importScripts("site.js");

const KEPT = `t2i-engine ${registration.scope}`; // a cache belongs to all pages of a host
const PAGE = new URL("./", location.href).href;
const absolute = (url) => new URL(url, PAGE).href;
const SHELL = ["site.js", ...Object.keys(SITE.shell)].map(absolute);
const LOADED = [SITE.model, ...Object.values(SITE.runtimes)].flatMap(Object.values).map(({ url }) => absolute(url)); // by SHA-256: they never change

// Threads need these: they are added here because a static host may not.
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

addEventListener("install", (event) => event.waitUntil(install()));
addEventListener("activate", (event) => event.waitUntil(activate()));
addEventListener("fetch", (event) => {
  const { pathname, href } = new URL(event.request.url);
  const wanted = pathname === new URL(PAGE).pathname ? PAGE : href;
  if (event.request.method === "GET" && [...SHELL, ...LOADED].includes(wanted)) event.respondWith(answer(event, wanted));
});

async function install() {
  const kept = await caches.open(KEPT);
  await kept.addAll(SHELL.map((url) => new Request(url, { cache: "no-cache" }))); // all of them, or none
  await skipWaiting();
}

async function activate() {
  const kept = await caches.open(KEPT);
  for (const { url } of await kept.keys()) if (![...SHELL, ...LOADED].includes(url)) await kept.delete(url);
  await clients.claim();
}

async function answer(event, url) {
  const kept = await caches.open(KEPT);
  let found = await kept.match(url);
  if (!found) {
    found = await fetch(event.request);
    if (found.ok) event.waitUntil(kept.put(url, found.clone()).catch(() => {})); // a full disk
  }
  const { status, statusText } = found;
  const headers = new Headers(found.headers);
  Object.entries(ISOLATED).forEach(([name, value]) => headers.set(name, value));
  return new Response(found.body, { status, statusText, headers });
}
