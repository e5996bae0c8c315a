// Which engine was resident when, and each swap. Knows: spans of time and where they lie. Does not know: why.

import { draw, keep, make, say } from "./dom.js";
import { clock, seconds, word } from "./format.js";
import { RESIDENT } from "./room.js";

const THINNEST = 0.3; // per cent: what was short is seen all the same
const SHOWN = new Set([...RESIDENT, "failed", "unreachable"]);
const LEGEND = { starting: "starting, waking", ready: "ready", draining: "draining", asleep: "asleep, or on the way there",
  stopping: "stopping", leaked: "leaked", failed: "failed", unreachable: "unreachable" };

export class Timeline {
  constructor({ rows, legend, span, swaps }) {
    Object.assign(this, { rows, span, swaps });
    legend.append(
      ...Object.entries(LEGEND).map(([state, words]) =>
        make("li", {}, draw("svg", { class: "swatch", "aria-hidden": "true" },
          draw("rect", { width: "100%", height: "100%", class: `in ${state}` })), words),
      ),
    );
  }

  render(room) {
    const to = room.now();
    const from = to - Number(this.span.value);
    const visible = [];
    for (const [id, spans] of room.spans) {
      const inside = spans.filter((one) => SHOWN.has(one.state) && (one.to ?? to) > from);
      if (inside.length) visible.push({ id, spans: inside });
    }
    const axis = { id: null, spans: [] };
    const items = visible.length ? [...visible, axis] : [axis];
    keep(this.rows, items, (item) => item.id, create, (element, item) => {
      if (item.id === null) fillAxis(element, from, to, visible.length);
      else fillRow(element, item, from, to);
    });
    this.#swaps(room);
  }

  #swaps(room) {
    const items = room.swaps.length ? room.swaps : [null];
    keep(this.swaps, items, (one) => one && `${one.at} ${one.to}`, () => make("li"), (item, one) => {
      if (one === null) return say(item, "None since this page was opened.");
      const names = one.from.join(", ");
      const end = one.outcome === null ? "under way" : `${seconds(one.seconds)}${one.outcome === "ok" ? "" : `, ${one.outcome}`}`;
      return say(item, `${clock(one.at)}  ${names} → ${one.to}: ${end}`);
    });
  }
}

function create(item) {
  if (item.id === null) return make("p", { class: "axis dim" }, make("span"), make("span"));
  const svg = draw("svg", { class: "track", role: "img", preserveAspectRatio: "none" });
  return make("div", { class: "row" }, make("bdi", { class: "label" }, item.id), svg);
}

function fillAxis(element, from, to, engines) {
  say(element.firstChild, engines ? clock(from) : "No engine was resident in this time.");
  say(element.lastChild, engines ? clock(to) : "");
}

function fillRow(element, { id, spans }, from, to) {
  const svg = element.lastChild;
  const per = 100 / (to - from);
  svg.setAttribute("aria-label", described(id, spans));
  keep(svg, spans, (one) => one.from + one.state, (one) => draw("rect", { class: `in ${one.state}`, height: "100%" }, draw("title")),
    (rect, one) => {
      const left = Math.max(0, (one.from - from) * per);
      const width = Math.max(THINNEST, ((one.to ?? to) - from) * per - left);
      rect.setAttribute("x", `${Math.min(left, 100 - THINNEST).toFixed(3)}%`);
      rect.setAttribute("width", `${width.toFixed(3)}%`);
      say(rect.firstChild, `${word(one.state)} ${seconds((one.to ?? to) - one.from)}, from ${clock(one.from)}`);
    });
}

/** The last spans in words, for those who do not see them. */
function described(id, spans) {
  const told = spans.slice(-4).map((one) =>
    `${word(one.state)} from ${clock(one.from)}${one.to === null ? " until now" : ` for ${seconds(one.to - one.from)}`}`,
  );
  return `${id}: ${told.join("; ")}`;
}
