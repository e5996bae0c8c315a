// What engines print, as it comes, through a filter. Knows: lines, which are data whatever is in them.

import { ask, lines, ofModel } from "./api.js";
import { choices, make, say } from "./dom.js";

const KEPT = 1000; // lines
const LONGEST = 4000; // characters of a line
const TAIL = 200; // lines of what was printed before
const AGAIN_MS = 2000;

export class Logs {
  constructor({ model, filter, count, lines: box }) {
    Object.assign(this, { model, filter, count, box, pending: [], open: null, followed: "" });
    model.addEventListener("change", () => this.#follow(model.value));
    filter.addEventListener("input", () => this.#sift());
  }

  /** The models that can be chosen. */
  offer(names) {
    choices(this.model, names);
    if (this.model.value !== this.followed) this.#follow(this.model.value);
  }

  /** Show this model's log. */
  choose(name) {
    this.model.value = name;
    this.offer(Array.from(this.model.options, (option) => option.value));
  }

  /** Read no more, for the time being. */
  stop() {
    this.open?.abort();
    this.followed = "";
  }

  async #follow(name) {
    this.stop();
    this.followed = name;
    if (!name) return;
    const { signal } = (this.open = new AbortController());
    while (!signal.aborted) {
      try {
        const response = await ask(ofModel(name, `logs?follow=1&lines=${TAIL}`), { signal });
        this.pending = [];
        this.box.replaceChildren();
        this.#sift();
        for await (const line of lines(response)) {
          if (signal.aborted) return;
          this.#add(line);
        }
      } catch (error) {
        if (signal.aborted) return;
        say(this.count, error.message);
      }
      await new Promise((resume) => setTimeout(resume, AGAIN_MS)); // the gateway restarts, or its model is gone
    }
  }

  #add(line) {
    if (!this.pending.length) requestAnimationFrame(() => this.#flush());
    this.pending.push(line.slice(0, LONGEST));
    if (this.pending.length > KEPT) this.pending.shift();
  }

  #flush() {
    const { box } = this;
    const below = box.scrollHeight - box.scrollTop - box.clientHeight < 20;
    const wanted = this.filter.value.toLowerCase();
    const fresh = this.pending.splice(0).map((line) => {
      const element = make("div", {}, line || " ");
      element.hidden = !line.toLowerCase().includes(wanted);
      return element;
    });
    box.append(...fresh);
    while (box.childElementCount > KEPT) box.firstElementChild.remove();
    if (below) box.scrollTop = box.scrollHeight;
    this.#tell();
  }

  #sift() {
    const wanted = this.filter.value.toLowerCase();
    for (const element of this.box.children) {
      element.hidden = !element.textContent.toLowerCase().includes(wanted);
    }
    this.box.scrollTop = this.box.scrollHeight;
    this.#tell();
  }

  #tell() {
    const all = this.box.childElementCount;
    const shown = this.box.querySelectorAll(":scope > :not([hidden])").length;
    say(this.count, shown === all ? `${all} lines` : `${shown} of ${all} lines`);
  }
}
