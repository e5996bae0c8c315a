// Requests: those under way, and the last that are over. Knows: columns. Tokens are counted by engines, at the end; until
// then a stream shows its chunks.

import { keep, make, say } from "./dom.js";
import { count, pace, rate, seconds, word } from "./format.js";

const SHOWN = 25;

export class Requests {
  constructor(body) {
    this.body = body;
  }

  render(room) {
    const now = room.now();
    const items = [...[...room.live.values()].reverse().slice(0, SHOWN), ...room.over].slice(0, SHOWN);
    keep(this.body, items.length ? items : [null], keyOf, create, (row, item) => fill(row, item, now));
  }
}

function keyOf(item) {
  return item && `${item.began} ${item.number}`;
}

function create(item) {
  if (item === null) return make("tr", {}, make("td", { colspan: "7", class: "dim" }, "None since this page was opened."));
  const numbers = Array.from({ length: 5 }, () => make("td", { class: "number" }));
  return make("tr", {}, make("td", {}, make("bdi")), make("td"), ...numbers);
}

function fill(row, item, now) {
  if (item === null) return;
  const [model, state, ttft, speed, tokens, waited, total] = row.children;
  say(model.firstChild, item.instance ?? item.model ?? "–");
  say(state, word(item.code ?? item.state));
  row.dataset.state = item.code ? "failed" : item.state;
  say(waited, seconds(item.waited ?? (item.ended === undefined ? now - item.began : undefined)));
  say(ttft, seconds(item.ttft));
  say(total, seconds(item.total ?? (item.ended ?? now) - item.began));
  say(tokens, count(item.tokens));
  say(speed, item.ended === undefined ? pace(item.pace) : rate(item.rate));
}
