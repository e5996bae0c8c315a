// A small chat, as any client would have it. Knows: streams of chat completions. Does not know: engines.

import { ask, events } from "./api.js";
import { choices, make } from "./dom.js";
import { count, rate, seconds } from "./format.js";

export class Playground {
  constructor({ form, model, limit, talk, text, send, stop, clear, cost }) {
    Object.assign(this, { model, limit, talk, text, send, stop, cost });
    this.said = []; // the conversation, as the model gets it
    this.open = null; // of the reply under way
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    stop.addEventListener("click", () => this.open?.abort());
    clear.addEventListener("click", () => this.#clear());
  }

  /** The models that can be asked. */
  offer(names) {
    choices(this.model, names);
  }

  #clear() {
    this.open?.abort();
    this.said = [];
    this.talk.replaceChildren();
    this.cost.textContent = "";
    this.text.focus();
  }

  #say(who, text, kind = who) {
    const body = make("p", {}, text);
    this.talk.append(make("li", { class: kind }, make("span", { class: "dim" }, who), body));
    this.talk.scrollTop = this.talk.scrollHeight;
    return body;
  }

  async #ask() {
    const question = this.text.value.trim();
    if (this.open !== null || !question || !this.model.value) return;
    const open = (this.open = new AbortController());
    const said = [...this.said, { role: "user", content: question }];
    this.#say("you", question);
    const reply = this.#say(this.model.value, "", "reply");
    this.text.value = "";
    this.#busy(true);
    const clock = { asked: performance.now(), first: null };
    try {
      const usage = await this.#read(said, reply, clock, open.signal);
      this.#cost(usage, clock);
      this.said = [...said, { role: "assistant", content: reply.textContent }];
    } catch (error) {
      if (open.signal.aborted) reply.append(" (stopped)");
      else this.#say("error", error.message);
    } finally {
      this.open = null;
      this.#busy(false);
    }
  }

  /** Streams the reply into its element; returns what it cost, if the engine says so. */
  async #read(messages, reply, clock, signal) {
    const body = {
      model: this.model.value,
      messages,
      max_tokens: Number(this.limit.value) || 256,
      stream: true,
      stream_options: { include_usage: true },
    };
    const response = await ask("v1/chat/completions", { method: "POST", body, signal });
    let usage = null;
    for await (const data of events(response)) {
      if (data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message ?? "the reply broke off");
      usage = chunk.usage ?? usage;
      const delta = chunk.choices?.[0]?.delta ?? {};
      const text = delta.content || delta.reasoning_content;
      if (!text) continue;
      clock.first ??= performance.now();
      reply.append(text); // a text node, whatever the model wrote
      this.talk.scrollTop = this.talk.scrollHeight;
    }
    return usage;
  }

  #cost(usage, { asked, first }) {
    const end = performance.now();
    const told = [];
    if (first !== null) told.push(`first token after ${seconds((first - asked) / 1000)}`);
    if (usage?.completion_tokens) {
      const { prompt_tokens: prompt, completion_tokens: tokens } = usage;
      told.push(`${count(prompt)} + ${count(tokens)} tokens`);
      if (first !== null && tokens > 1) {
        told.push(`${rate(((tokens - 1) * 1000) / Math.max(1, end - first))} tokens/s`);
      }
    }
    this.cost.textContent = told.join(" · ");
  }

  #busy(busy) {
    this.talk.setAttribute("aria-busy", String(busy));
    this.send.setAttribute("aria-disabled", String(busy));
    this.stop.disabled = !busy;
    if (busy) this.cost.textContent = "";
  }
}
