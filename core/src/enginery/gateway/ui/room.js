// What is known of the engine room: a snapshot, and every event since. Knows no element and asks nobody.
// Times are seconds since the epoch, by the gateway's clock.

export const SPANS_KEPT = 7200;
const OVER_KEPT = 40;
const SWAPS_KEPT = 20;

/** States in which an engine has a process, and so its memory. */
export const RESIDENT = new Set([
  "starting", "ready", "draining", "going_to_sleep", "asleep", "waking", "stopping", "leaked",
]);

export class Room {
  constructor() {
    this.cards = []; // of /v1/models
    this.rows = []; // of /api/engines
    this.spans = new Map(); // instance id -> [{state, from, to}], `to` null while it lasts
    this.swaps = []; // the newest first
    this.live = new Map(); // request number -> what is known of it
    this.over = []; // finished requests, the newest first
    this.memory = null; // {free, held}
    this.budget = {};
    this.progress = new Map(); // instance id -> {progress, detail} of its load
    this.seq = null;
    this.ahead = 0; // seconds by which the gateway's clock is ahead of ours
  }

  /** Now, by the gateway's clock. */
  now() {
    return Date.now() / 1000 + this.ahead;
  }

  /** A new connection: what is said to be under way may have ended unheard. */
  begin() {
    this.seq = null;
    this.live.clear();
  }

  /** What /v1/models and /api/engines say. */
  snapshot(cards, rows) {
    this.cards = cards;
    this.rows = rows;
    for (const row of rows) {
      const spans = this.spans.get(row.id);
      const last = spans?.at(-1);
      if (last === undefined && row.state !== "stopped") {
        this.#enter(row.id, row.state, row.started_at ?? this.now());
      } else if (last !== undefined && last.state !== row.state) {
        this.#enter(row.id, row.state, this.now()); // an event was missed
      }
    }
  }

  /** One event. Returns true when the snapshot is out of date by it. */
  apply(event) {
    this.ahead = event.at - Date.now() / 1000;
    const gap = this.seq !== null && event.seq !== this.seq + 1;
    this.seq = event.seq;
    if (gap) this.live.clear(); // we were too slow, and the gateway dropped some
    switch (event.type) {
      case "instance.state":
        this.#enter(event.instance, event.state, event.at);
        this.progress.delete(event.instance);
        return true;
      case "load.progress":
        this.progress.set(event.instance, { progress: event.progress, detail: event.detail });
        return gap;
      case "swap.begun":
        this.swaps.unshift({
          at: event.at, to: event.instance, from: [event.victim], seconds: null, outcome: null,
        });
        this.swaps.length = Math.min(this.swaps.length, SWAPS_KEPT);
        return gap;
      case "swap.finished": {
        const swap = this.swaps.find((one) => one.to === event.instance && one.outcome === null);
        const told = { seconds: event.seconds, outcome: event.outcome, from: event.victims };
        if (swap !== undefined) Object.assign(swap, told);
        else this.swaps.unshift({ at: event.at - event.seconds, to: event.instance, ...told });
        return gap;
      }
      case "memory.sampled":
        this.memory = { free: event.free ?? {}, held: event.held ?? {} };
        return true; // every five seconds: idle times and what is left of them
      case "request.sampled":
        for (const row of event.requests) this.#sampled(row, event.at);
        return gap;
      case "config.reloaded":
        return true;
      default:
        if (event.type.startsWith("request.")) this.#request(event);
        return gap;
    }
  }

  #enter(id, state, at) {
    const spans = this.spans.get(id) ?? [];
    this.spans.set(id, spans);
    const last = spans.at(-1);
    if (last !== undefined && last.to === null) {
      if (last.state === state) return;
      last.to = at;
    }
    spans.push({ state, from: at, to: null });
    const oldest = at - SPANS_KEPT;
    while (spans.length > 500 || (spans[0].to !== null && spans[0].to < oldest)) spans.shift();
  }

  /** How far one request is; it may have begun before this page was opened. */
  #sampled(row, at) {
    const waited = row.queue_s + row.swap_s;
    const known = this.live.get(row.request) ??
      { number: row.request, model: row.model, began: at - row.running_s - waited };
    Object.assign(known, { instance: row.instance, state: "running", waited, pace: row.chunks_per_s });
    if (typeof row.first_byte_s === "number") known.ttft = waited + row.first_byte_s;
    this.live.set(row.request, known);
  }

  #request(event) {
    const number = event.request ?? `refused ${event.seq}`;
    const known = this.live.get(number) ?? { number, model: event.model, began: event.at };
    known.model = event.model ?? known.model;
    known.instance = event.instance;
    switch (event.type) {
      case "request.queued":
        known.state = "waiting";
        this.live.set(number, known);
        return;
      case "request.granted":
        known.state = "running";
        known.granted = event.at;
        known.waited = event.queue_s + event.swap_s;
        this.live.set(number, known);
        return;
      case "request.first_token":
        if (!this.live.has(number)) return; // the next sample tells of it
        known.ttft = event.queue_s + event.swap_s + event.first_byte_s;
        return;
      case "request.finished":
        Object.assign(known, finished(event), { state: event.outcome });
        break;
      case "request.cancelled":
        known.state = "left";
        break;
      default:
        known.state = event.code ?? "failed";
    }
    known.ended = event.at;
    known.seq = event.seq;
    this.live.delete(number);
    this.over.unshift(known);
    this.over.length = Math.min(this.over.length, OVER_KEPT);
  }
}

function finished(event) {
  const { queue_s, swap_s, first_byte_s, total_s, completion_tokens } = event;
  const told = {};
  if (typeof queue_s === "number") told.waited = queue_s + swap_s;
  if (typeof total_s === "number") told.total = told.waited + total_s;
  const streamed = typeof first_byte_s === "number"; // by its engine, if not to its client
  if (streamed) told.ttft = told.waited + first_byte_s;
  if (typeof completion_tokens === "number") {
    told.tokens = completion_tokens;
    // of a stream the first token is what TTFT is about; the others came after it
    const first = streamed ? 1 : 0;
    const lasted = streamed ? total_s - first_byte_s : total_s;
    if (lasted > 0 && completion_tokens > first) told.rate = (completion_tokens - first) / lasted;
  }
  if (event.code) told.code = event.code;
  return told;
}
