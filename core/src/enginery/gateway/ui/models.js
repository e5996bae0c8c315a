// The list of models: what state each is in, and the buttons that change it. Knows: rows. Does not know: who loads.

import { keep, make, say, show } from "./dom.js";
import { bytes, count, seconds, word } from "./format.js";
import { RESIDENT } from "./room.js";

export class Models {
  /** `order(model, what)` is called for a press of "load" or "unload". */
  constructor(list, order) {
    this.list = list;
    this.order = order;
  }

  render(room) {
    const rows = grouped(room.rows);
    const known = new Set(room.cards.map((card) => card.id));
    const others = [...rows.keys()].filter((name) => !known.has(name)); // registered ad hoc, or not configured any more
    const items = [...room.cards, ...others.map((id) => ({ id, state: null, aliases: [] }))].map(
      (card) => ({ card, rows: rows.get(card.id) ?? [] }),
    );
    keep(this.list, items, (item) => item.card.id, (item) => this.#create(item), (element, item) =>
      this.#update(element, item, room),
    );
  }

  #create({ card }) {
    const button = (what, label) => {
      const made = make("button", { type: "button", "aria-label": `${label} ${card.id}` }, label);
      made.addEventListener("click", () => {
        if (made.getAttribute("aria-disabled") !== "true") this.order(card.id, what);
      });
      return made;
    };
    const element = make("li", { class: "model" });
    element.parts = {
      state: make("span", { class: "state" }),
      facts: make("p", { class: "dim" }),
      error: make("p", { class: "error" }),
      instances: make("ul", { class: "plain" }),
      load: button("load", "Load"),
      unload: button("unload", "Unload"),
    };
    const { state, facts, error, instances, load, unload } = element.parts;
    element.append(
      make("div", { class: "name" }, make("h3", {}, make("bdi", {}, card.id)), state),
      facts,
      error,
      instances,
      make("div", { class: "fields" }, load, unload),
    );
    return element;
  }

  #update(element, { card, rows }, room) {
    const { state, facts, error, instances, load, unload } = element.parts;
    const best = card.state ?? (rows.length ? word(rows[0].state) : "unloaded");
    say(state, best);
    state.dataset.state = best;
    say(facts, factsOf(card));
    show(facts, facts.textContent !== "");
    say(error, card.error ?? "");
    show(error, Boolean(card.error));
    const shown = rows.filter((row) => row.state !== "stopped" || row.last_error || row.queued);
    keep(instances, shown, (row) => row.id, instance, (item, row) => fill(item, row, room));
    show(instances, shown.length > 0);
    enable(load, best !== "loaded" && best !== "loading");
    enable(unload, rows.some((row) => RESIDENT.has(row.state) || row.state === "unreachable"));
  }
}

/** A button that cannot be pressed keeps the focus; `disabled` would throw it away. */
function enable(button, enabled) {
  button.setAttribute("aria-disabled", String(!enabled));
}

function factsOf(card) {
  const facts = [];
  if (card.context_length) facts.push(`${count(card.context_length)} tokens of context`);
  if (card.aliases?.length) facts.push(`also ${card.aliases.join(", ")}`);
  return facts.join(" · ");
}

function instance() {
  const item = make("li", { class: "instance" });
  item.parts = {
    what: make("bdi"),
    numbers: make("span", { class: "dim" }),
    error: make("p", { class: "error" }),
    progress: make("progress", { max: "1" }),
  };
  item.append(...Object.values(item.parts));
  return item;
}

function fill(item, row, room) {
  const { what, numbers, error, progress } = item.parts;
  const why = row.reason && !row.last_error?.startsWith(row.reason) ? `, ${row.reason}` : "";
  say(what, `${row.variant} (${row.engine}): ${word(row.state)}${why}`);
  const told = [];
  if (row.in_flight) told.push(`${row.in_flight} in flight`);
  if (row.queued) told.push(`${row.queued} waiting`);
  const held = Object.entries(row.memory ?? {});
  if (held.length && RESIDENT.has(row.state)) {
    told.push(held.map(([device, size]) => `${device} ${bytes(size)}`).join(", "));
  }
  if (row.idle_s !== null) told.push(`idle ${seconds(row.idle_s)}`);
  if (row.ttl_left_s !== null) told.push(`stops in ${seconds(row.ttl_left_s)}`);
  if (row.quarantined) told.push("quarantined until it is loaded by hand");
  else if (row.retry_in_s) told.push(`may start again in ${seconds(row.retry_in_s)}`);
  if (row.pid !== null) told.push(`pid ${row.pid}`);
  if (row.address !== null) told.push(row.address);
  say(numbers, told.join(" · "));
  say(error, row.last_error ?? "");
  show(error, Boolean(row.last_error));
  const load = row.state === "starting" ? room.progress.get(row.id) : undefined;
  show(progress, row.state === "starting");
  progress.setAttribute("aria-label", `${row.id} loads`);
  if (typeof load?.progress === "number") progress.value = load.progress;
  else progress.removeAttribute("value"); // under way, nobody knows how far
}

function grouped(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row.model, [...(groups.get(row.model) ?? []), row]);
  return groups;
}
