// Asking the gateway. Knows: the key, errors and streams. Does not know: what is asked for.

const STORED = "enginery.key";
const ROOT = new URL("../", document.baseURI);

/** What the gateway refused, in its own words. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** True when another key may open this. */
  get wantsKey() {
    return this.status === 401 || this.code === "admin_required";
  }
}

/** The key of this tab, or null. */
export function key() {
  return sessionStorage.getItem(STORED);
}

/** Use this key from now on; null: none. */
export function useKey(text) {
  if (text === null) sessionStorage.removeItem(STORED);
  else sessionStorage.setItem(STORED, text);
}

/** The path of a model's route; the name is one part of it, whatever is in it. */
export function ofModel(name, route) {
  return `api/models/${encodeURIComponent(name)}/${route}`;
}

/** Ask; `body` is sent as JSON. Throws Refused for what is not 2xx, TypeError where nobody answers. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = new Headers();
  if (key() !== null) headers.set("Authorization", `Bearer ${key()}`);
  if (body !== undefined) headers.set("Content-Type", "application/json");
  const response = await fetch(new URL(path, ROOT), {
    method,
    headers,
    signal,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
  });
  if (response.ok) return response;
  let told = null;
  try {
    told = (await response.json()).error;
  } catch {
    // a proxy's page, or nothing: the status must do
  }
  const message = told?.message ?? `${response.status} ${response.statusText}`;
  throw new Refused(response.status, told?.code ?? null, String(message));
}

/** Ask, and read one JSON value. */
export async function read(path, how) {
  return (await ask(path, how)).json();
}

/** The lines of a response as they come; the last may lack its end. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const line of parts) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already
  }
}

/** The data of a response's server-sent events, as texts. EventSource could not send a key. */
export async function* events(response) {
  let data = [];
  for await (const line of lines(response)) {
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}
