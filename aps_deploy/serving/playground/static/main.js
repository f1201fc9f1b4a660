// Joins the parts of the page: which models there are, which picture they look at, and asking them for every shift.

import { Card, element } from "./cards.js";
import { Changes, Strip } from "./record.js";
import { Server, ServerError } from "./server.js";
import { inWords } from "./shifts.js";
import { Stage } from "./stage.js";
import { Subject } from "./subject.js";

const LOOK_AGAIN_MS = 4000;
const STEP_MS = 60;
const CALM_STEP_MS = 400;
const LATER_MS = 1000;
const REFUSALS = [400, 404, 413, 501];

const part = (id) => document.getElementById(id);
const server = new Server();
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let rows = []; // of every model: its subject, card and strip
let current = null; // the picture: { title, bytes }
let isPlaying = false;
let round = new AbortController(); // aborted when the picture changes: its answers are of no use any more
let asking = null; // the promise of the answers that are under way
let isAskedAgain = false;
let isLost = false; // whether the server did not answer the last time

const stage = new Stage(
  { element: part("stage"), canvas: part("canvas"), words: part("shift") },
  { moved: () => ask(), toggled: () => play(!isPlaying) },
);
const changes = new Changes(part("changes"), part("no-changes"), (shift) => {
  play(false);
  stage.goTo(shift);
});

const asked = () => rows.filter(({ subject }) => subject.isAsked);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Says one sentence at the top of the page; an empty one takes it away. */
function warn(sentence) {
  part("alert").textContent = sentence;
  part("alert").hidden = sentence === "";
}

/** Runs what may fail; says why it did, and asks for the token where it was for the want of it. */
async function guarded(action) {
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") {
      return;
    }
    if (error instanceof ServerError && error.status === 401) {
      part("token-form").hidden = false;
      warn(server.token ? "The server does not accept this token." : "");
      part("token").focus();
      return;
    }
    isLost = error.status === 0;
    warn(error.message);
  }
}

/** Looks which models are there, and keeps what is known of those that were there before. */
async function look() {
  const entries = await server.index();
  if (isLost || !part("token-form").hidden) {
    warn("");
    part("token-form").hidden = true;
  }
  const wasLost = isLost;
  isLost = false;
  const before = new Map(rows.map((row) => [row.subject.key, row]));
  const after = entries.map((entry) => {
    const subject = new Subject(entry);
    const known = before.get(subject.key);
    if (known === undefined) {
      return { subject, card: new Card(subject), strip: new Strip(name(entry, entries)) };
    }
    if (!subject.isReady) {
      known.subject.problem = subject.problem;
      known.card.draw();
    }
    return known;
  });
  const isSame = after.length === rows.length && after.every((row, place) => row === rows[place]);
  if (isSame) {
    await (wasLost ? ask() : null);
    return;
  }
  rows = after;
  part("cards").replaceChildren(...rows.map(({ card }) => card.element));
  part("strips").replaceChildren(
    ...rows.filter(({ subject }) => subject.isReady).map(({ strip }) => strip.element),
  );
  if (current !== null) {
    await take(current);
  }
}

function name(entry, entries) {
  const isAlone = entries.filter((other) => other.name === entry.name).length === 1;
  return isAlone ? entry.name : `${entry.name} ${entry.version ?? ""}`;
}

/** Shows a picture to every model, and asks for their unshifted answers. */
async function take(picture) {
  play(false);
  round.abort();
  round = new AbortController();
  const { signal } = round;
  current = picture;
  part("picture-name").textContent = picture.title;
  changes.clear();
  isAskedAgain = false;
  part("said").textContent = "";
  part("cards").setAttribute("aria-busy", "true");
  await Promise.all(rows.map((row) => prepare(row, picture, signal)));
  signal.throwIfAborted();
  const largest = asked().reduce((most, { subject }) => Math.max(most, subject.size.width), 0);
  const lead = asked().find(({ subject }) => subject.size.width === largest);
  stage.show(lead?.subject.picture ?? null);
  describeStage(lead?.subject);
  part("play").disabled = part("back").disabled = lead === undefined;
  if (lead === undefined && rows.length > 0) {
    warn("None of the models takes this picture; their cards say why.");
  }
  await ask();
  if (!signal.aborted) {
    part("cards").setAttribute("aria-busy", "false");
  }
}

async function prepare({ subject, card, strip }, picture, signal) {
  strip.clear();
  if (subject.isReady) {
    try {
      await subject.take(server, picture.bytes, signal);
    } catch (error) {
      if (signal.aborted || error.status === 401) {
        throw error;
      }
      subject.problem = error.message;
    }
  }
  card.draw();
}

function describeStage(lead) {
  const sizes = new Set(asked().map(({ subject }) => subject.size.width));
  const what = lead === undefined ? "no picture" : `${current.title}, as ${lead.name} reads it`;
  part("stage").setAttribute("aria-label", what);
  part("about").textContent =
    sizes.size > 1
      ? `The picture is shown as ${lead.name} reads it. The networks read it at different sizes; each moves by the ` +
        "same number of its own pixels."
      : "";
}

/** Asks every model for the answer to the picture as it is moved now; asked meanwhile, it asks once more at the end. */
function ask() {
  if (asking !== null) {
    isAskedAgain = true;
    return asking;
  }
  asking = askUntilDone().finally(() => {
    asking = null;
  });
  return asking;
}

async function askUntilDone() {
  do {
    isAskedAgain = false;
    const { signal } = round;
    const { shift } = stage;
    const found = asked();
    const answers = await Promise.all(found.map((row) => askOne(row, shift, signal)));
    if (signal.aborted) {
      continue; // of another picture
    }
    found.forEach((row, place) => show(row, answers[place]));
    if (!isPlaying && found.length > 0) {
      say(found, shift);
    }
  } while (isAskedAgain);
}

async function askOne({ subject }, shift, signal) {
  try {
    const answer = await subject.ask(server, shift, signal);
    subject.problem = "";
    return answer;
  } catch (error) {
    if (error.name === "AbortError") {
      return null;
    }
    subject.problem = error.message;
    subject.isRefused = REFUSALS.includes(error.status); // and would be every time
    if (error.status === 0 || error.status === 401) {
      play(false);
      guarded(() => Promise.reject(error));
    } else if (error.retryAfterSeconds !== null && isPlaying) {
      await sleep(LATER_MS);
    }
    return null;
  }
}

function show({ subject, card, strip }, answer) {
  card.draw();
  strip.add(answer, subject);
  if (answer?.isChanged) {
    changes.add(subject, answer);
  }
}

/** Tells what the answers are to who does not see them. */
function say(found, shift) {
  const told = found.map(({ subject }) => {
    if (subject.problem || subject.answer === null) {
      return `${subject.name}: ${subject.problem || "no answer"}`;
    }
    const { label } = subject.answer.top[0];
    return `${subject.name}: ${label}${subject.answer.isChanged ? ", changed" : ""}`;
  });
  part("said").textContent = `${inWords(shift, stage.picture)}. ${told.join(". ")}`;
}

/** Moves the picture by itself, through all its shifts, as fast as the models answer. */
async function play(wanted) {
  const wasPlaying = isPlaying;
  isPlaying = wanted && stage.picture !== null;
  part("play").setAttribute("aria-pressed", String(isPlaying));
  part("play-word").textContent = isPlaying ? "Pause" : "Play";
  part("play-shape").setAttribute("d", isPlaying ? "M4 2.5h3v11H4zM9 2.5h3v11H9z" : "M4 2.5v11l9-5.5z");
  if (wasPlaying || !isPlaying) {
    return;
  }
  while (isPlaying) {
    await sleep(calm.matches ? CALM_STEP_MS : STEP_MS);
    await asking;
    if (isPlaying && stage.drag === null) {
      stage.step();
      await asking;
    }
  }
}

function takeFile(file) {
  if (file) {
    pressSample(null);
    guarded(() => take({ title: file.name, bytes: file }));
  }
}

async function takeSample(button, { address, title }) {
  pressSample(button);
  const response = await fetch(address);
  if (!response.ok) {
    throw new ServerError("The sample picture cannot be had.", response.status);
  }
  await take({ title, bytes: await response.blob() });
}

function pressSample(pressed) {
  for (const button of part("samples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === pressed));
  }
}

async function offerSamples() {
  const response = await fetch("playground/samples.json");
  const { samples } = response.ok ? await response.json() : { samples: [] };
  const buttons = samples.map((sample) => {
    const picture = element("img", { src: sample.address, alt: sample.title });
    const button = element("button", { type: "button", title: sample.title, aria_pressed: "false" }, picture);
    button.addEventListener("click", () => guarded(() => takeSample(button, sample)));
    part(sample.wavers ? "wavering" : "steady").append(button);
    return { button, sample };
  });
  part("samples").hidden = buttons.length === 0;
  return buttons[0];
}

function listen() {
  part("play").addEventListener("click", () => play(!isPlaying));
  part("back").addEventListener("click", () => {
    play(false);
    stage.goTo({ right: 0, down: 0 });
  });
  part("file").addEventListener("change", ({ target }) => {
    takeFile(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  part("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    server.token = part("token").value.trim();
    guarded(begin);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    takeFile(event.dataTransfer.files[0]);
  });
  const redraw = () => {
    for (const { subject, card, strip } of rows) {
      strip.draw(subject);
      if (subject.answer !== null) {
        card.drawMap(true);
      }
    }
  };
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

/** Shows the models, and the first sample where there is one and no picture was chosen. */
async function begin() {
  await look();
  if (current === null && first !== undefined) {
    await takeSample(first.button, first.sample);
  }
}

async function lookAgain() {
  for (;;) {
    await sleep(LOOK_AGAIN_MS);
    if (!document.hidden && part("token-form").hidden) {
      await guarded(look);
    }
  }
}

listen();
const first = await offerSamples();
await guarded(begin);
lookAgain();
