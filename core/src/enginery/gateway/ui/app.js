// The page put together: one stream of events, one picture of the room, views that draw it. Decides nothing.

import { ask, events, key, ofModel, read, Refused, useKey } from "./api.js";
import { at, say, show } from "./dom.js";
import { Logs } from "./logs.js";
import { Memory } from "./memory.js";
import { Models } from "./models.js";
import { Playground } from "./playground.js";
import { Requests } from "./requests.js";
import { Room } from "./room.js";
import { Timeline } from "./timeline.js";

const REFRESH_MS = 250; // at least, between two looks at the whole
const TICK_MS = 1000;
const LONGEST_PAUSE_MS = 10_000;

const room = new Room();
const logs = new Logs({ model: at("log-model"), filter: at("log-filter"), count: at("log-count"), lines: at("log-lines") });
const playground = new Playground({
  form: at("chat-form"), model: at("chat-model"), limit: at("chat-limit"), talk: at("chat-talk"), text: at("chat-text"),
  send: at("chat-send"), stop: at("chat-stop"), clear: at("chat-clear"), cost: at("chat-cost"),
});
const timeline = new Timeline({
  rows: at("timeline-rows"), legend: at("timeline-legend"), span: at("timeline-span"), swaps: at("swap-list"),
});
const views = [new Models(at("model-list"), order), timeline, new Requests(at("request-rows")), new Memory(at("device-list"))];

// -- drawing -----------------------------------------------------------------------------------------

let drawn = true;

function draw() {
  if (!drawn) return;
  drawn = false;
  requestAnimationFrame(() => { // never in a tab that nobody sees
    drawn = true;
    for (const view of views) view.render(room);
    const names = room.cards.map((card) => card.id);
    playground.offer(names);
  });
}

function connection(state, text) {
  at("connection").dataset.state = state;
  say(at("connection"), text);
}

function notice(text) {
  say(at("notice"), text);
  show(at("notice"), text !== "");
}

// -- asking ------------------------------------------------------------------------------------------

let looking = false;
let stale = false;

/** The whole picture; calls while it is fetched are answered by one more fetch. */
async function refresh() {
  stale = true;
  if (looking) return;
  looking = true;
  try {
    while (stale) {
      stale = false;
      const [models, engines] = await Promise.all([read("v1/models"), read("api/engines")]);
      room.snapshot(models.data, engines.engines);
      logs.offer(models.data.map((card) => card.id));
      draw();
      await new Promise((resume) => setTimeout(resume, REFRESH_MS));
    }
  } finally {
    looking = false;
  }
}

async function order(model, what) {
  notice("");
  try {
    await ask(ofModel(model, `${what}?wait=0`), { method: "POST", body: {} });
    await refresh();
  } catch (error) {
    notice(`${model}: ${error.message}`);
  }
}

async function follow() {
  const response = await ask("api/events");
  room.begin();
  const { settings } = await read("api/config");
  room.budget = settings.budget ?? {};
  await refresh();
  connection("on", "connected");
  show(at("change-key"), key() !== null);
  say(at("change-key"), "Forget key");
  for await (const data of events(response)) {
    if (room.apply(JSON.parse(data))) refresh().catch(() => {}); // the stream's end tells the same
    draw();
  }
}

async function stay() {
  let pause = 500;
  for (;;) {
    connection("waiting", "connecting…");
    const began = Date.now();
    try {
      await follow();
    } catch (error) {
      if (error instanceof Refused && error.wantsKey) {
        connection("off", "a key is needed");
        await keyGiven(error);
        continue;
      }
      console.warn(error);
    }
    if (Date.now() - began > LONGEST_PAUSE_MS) pause = 500;
    connection("off", "not connected");
    await new Promise((resume) => setTimeout(resume, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

// -- the key -----------------------------------------------------------------------------------------

let given = null;

function keyGiven(error) {
  logs.stop();
  say(at("key-reason"), error.message);
  say(at("change-key"), "Enter key");
  show(at("change-key"), true);
  at("key-dialog").showModal();
  return new Promise((resume) => { given = resume; });
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("key-text").value.trim();
  if (!/^[\x21-\x7e]+$/.test(text)) {
    say(at("key-reason"), "A key has no spaces, and no letters beyond ASCII.");
    return;
  }
  useKey(text);
  at("key-text").value = "";
  at("key-dialog").close();
  given?.();
});

at("change-key").addEventListener("click", () => {
  if (given !== null && key() === null) return at("key-dialog").showModal();
  useKey(null);
  return location.reload();
});

at("timeline-span").addEventListener("change", draw);
setInterval(draw, TICK_MS);
draw();
stay();
