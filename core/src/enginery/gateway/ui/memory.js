// Memory per device: what engines hold of it, what is free. Knows: bytes. The gateway measures every five seconds.

import { draw, keep, make, say } from "./dom.js";
import { bytes } from "./format.js";

export class Memory {
  constructor(list) {
    this.list = list;
  }

  render(room) {
    const devices = devicesOf(room);
    keep(this.list, devices.length ? devices : [null], (one) => one && one.name, create, fill);
  }
}

/** [{name, free, budget, held: [[instance, bytes]]}]; `free` and `budget` are undefined where nobody knows. */
export function devicesOf({ memory, budget }) {
  const names = new Set([...Object.keys(budget), ...Object.keys(memory?.free ?? {})]);
  const holders = Object.entries(memory?.held ?? {});
  for (const [, held] of holders) for (const name of Object.keys(held)) names.add(name);
  return [...names].map((name) => ({
    name,
    free: memory?.free[name],
    budget: budget[name],
    held: holders.filter(([, held]) => held[name]).map(([id, held]) => [id, held[name]]),
  }));
}

function create(device) {
  if (device === null) return make("li", { class: "dim" }, "No device was measured yet.");
  const bar = draw("svg", { class: "track", "aria-hidden": "true" });
  return make("li", { class: "device" }, make("div", { class: "name" }, make("h3", {}, make("bdi", {}, device.name)), make("span")),
    bar, make("ul", { class: "plain dim" }));
}

function fill(item, device) {
  if (device === null) return;
  const [head, bar, list] = item.children;
  const held = device.held.reduce((sum, [, size]) => sum + size, 0);
  const told = [`${bytes(held)} held by engines`];
  if (device.budget !== undefined) told.push(`budget ${bytes(device.budget)}`);
  told.push(device.free === undefined ? "free: unknown" : `${bytes(device.free)} free`);
  say(head.lastChild, told.join(" · "));
  const whole = Math.max(device.budget ?? 0, held + (device.free ?? 0), 1);
  let left = 0;
  const parts = device.held.map(([id, size]) => {
    const part = { id, size, left, width: (size / whole) * 100 };
    left += part.width;
    return part;
  });
  keep(bar, parts, (part) => part.id, () => draw("rect", { class: "held", height: "100%" }, draw("title")), (rect, part) => {
    rect.setAttribute("x", `${part.left.toFixed(3)}%`);
    rect.setAttribute("width", `${part.width.toFixed(3)}%`);
    say(rect.firstChild, `${part.id}: ${bytes(part.size)}`);
  });
  keep(list, parts, (part) => part.id, () => make("li", {}, make("bdi")), (line, part) =>
    say(line.firstChild, `${part.id}: ${bytes(part.size)}`));
}
