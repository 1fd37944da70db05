// What the page does when something is pressed, dropped, pasted or said.

import { Camera, inPage } from "./camera.js";
import { holdButton } from "./hold.js";
import { Player } from "./player.js";
import { Recorder } from "./recorder.js";
import { Results } from "./results.js";
import { Problem, Service } from "./service.js";
import { fill, has, text } from "./strings.js";

const LOOKING_MS = 800; // a wait shorter than this isn't spoken of
const SHORTEST_S = 0.3; // seconds of speech that are worth a search
const LONGEST_MS = 20_000; // the microphone is never on for longer
const KEYS_KEPT = "pixvoice-keys";

const $ = (id) => document.getElementById(id);
const player = new Player($("audio"));
const camera = new Camera($("viewfinder"));
const results = new Results($("results"));
const service = new Service(askToken);

let photo = null; // the blob that the page shows
let secondLook = null; // {audio: base64, ...} of that photo
let looking = new AbortController(); // ends what is under way for that photo
let searching = new AbortController();
let recorder = null; // while the button is held
let listening = false; // and the microphone is on
let heldBack = ""; // what is said when the speech ends: a screen reader must not talk over it
let tokenAsked = null;

// --- what is going on ---------------------------------------------------------------------------------------------

function say(message, isError = false) {
  if (player.state === "speaking" && !isError) {
    heldBack = message;
    return;
  }
  heldBack = "";
  const again = $("status").textContent === message ? "\u00a0" : ""; // the same text twice would be announced once
  $("status").textContent = message + again;
  $("status").classList.toggle("error", isError);
}

function complain(error) {
  if (error.name === "AbortError") return;
  const isKnown = error instanceof Problem;
  if (!isKnown) console.warn(error);
  say(isKnown ? error.message : text("brokeOff"), true);
}

player.addEventListener("change", ({ detail: { state, ended } }) => {
  $("hear").textContent = text(state === "idle" ? "hear" : "hearStop");
  $("hear").classList.toggle("busy", state === "waiting");
  if (state === "speaking") {
    $("player").hidden = false;
    $("status").textContent = ""; // what it said is over
  }
  if (state === "idle" && (ended || heldBack)) say(heldBack || text("ended"));
});

// --- a photo ------------------------------------------------------------------------------------------------------

function show(blob) {
  looking.abort();
  player.drop();
  closeCamera();
  photo = blob;
  for (const id of ["player", "second", "no-preview"]) $(id).hidden = true;
  $("confidence").textContent = "";
  URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(blob);
  $("preview").hidden = false;
  $("similar").hidden = $("search").hidden;
}

function give(blob) {
  if (!blob) return;
  show(blob);
  $("hear").focus();
  say(text("photoReady", { button: text("hear") }));
}

async function describe() {
  if (!photo) {
    say(text("noPhoto"));
    return;
  }
  looking.abort();
  const { signal } = (looking = new AbortController());
  const length = $("length").value;
  const wait = setTimeout(() => say(text("looking")), LOOKING_MS);
  const given = photo;
  try {
    const whole = await player.speak((gone) => service.describe(given, length, gone));
    if (signal.aborted) return;
    if (!whole) say(text("nothingSaid"), true);
    else await lookAgain(given, length, signal);
  } catch (error) {
    complain(error);
  } finally {
    clearTimeout(wait);
  }
}

/** The first description was made as quickly as it could be; a second look is better, and knows how sure it is. */
async function lookAgain(given, length, signal) {
  try {
    secondLook = await service.describeWell(given, length, signal);
  } catch {
    return; // the first one was heard
  }
  if (signal.aborted) return;
  const words = secondLook.confidence_in_words;
  $("confidence").textContent = has(words) ? text(words) : words;
  $("second").hidden = false;
  say($("confidence").textContent);
}

function playSecondLook() {
  const bytes = Uint8Array.from(atob(secondLook.audio), (letter) => letter.charCodeAt(0));
  player.play(new Blob([bytes], { type: "audio/wav" }));
}

function stop() {
  if (player.state === "waiting") {
    looking.abort();
    player.drop();
  } else player.stop();
  say(text("stopped"));
}

function changeSpeed(step) {
  const percent = Math.round(100 * player.changeSpeed(step));
  if (player.state !== "speaking") say(text("speed", { percent })); // else it is heard
}

// --- the camera ---------------------------------------------------------------------------------------------------

async function openCamera() {
  if (!inPage()) {
    $("camera-file").click();
    return;
  }
  try {
    await camera.open();
  } catch (error) {
    say(text("cameraRefused", { reason: error.message }), true);
    return;
  }
  $("camera").hidden = false;
  $("picture").hidden = true;
  $("shoot").focus();
  say(text("cameraOpen", { button: text("shoot") }));
}

function closeCamera() {
  camera.close();
  $("camera").hidden = true;
  $("picture").hidden = false;
}

function leaveCamera() {
  closeCamera();
  $("take").focus();
  say(text("cameraClosed"));
}

// --- speaking to it -----------------------------------------------------------------------------------------------

function showTalk(on) {
  $("talk").textContent = text(on ? "talkOn" : "talk");
  $("talk").classList.toggle("on", on);
}

async function beginTalk() {
  if (!navigator.mediaDevices) {
    say(text("microphoneRefused", { reason: text("notSecure") }), true);
    return;
  }
  const mine = (recorder = new Recorder());
  listening = false;
  player.stop();
  showTalk(true);
  try {
    await mine.start();
  } catch (error) {
    if (recorder === mine) dropTalk();
    say(text("microphoneRefused", { reason: error.message }), true);
    return;
  }
  if (recorder !== mine) {
    mine.cancel(); // let go while the browser was asking for the microphone
    return;
  }
  listening = true;
  setTimeout(() => recorder === mine && endTalk(), LONGEST_MS);
}

async function endTalk() {
  const mine = recorder;
  const heard = listening;
  recorder = null;
  showTalk(false);
  if (!heard) {
    say(text("talkReady"));
    return;
  }
  const { wav, seconds } = await mine.stop();
  if (seconds < SHORTEST_S) say(text("talkShort"));
  else await search({ speech: wav });
}

function dropTalk() {
  recorder.cancel();
  recorder = null;
  showTalk(false);
}

async function search(query) {
  searching.abort();
  const { signal } = (searching = new AbortController());
  const wait = setTimeout(() => say(text("searching")), LOOKING_MS);
  try {
    const answer = await service.search(query, signal);
    $("heard").textContent = answer.heard ? text("heard", { text: answer.heard }) : "";
    results.show(answer.results, { load: (address) => service.photo(address, signal), choose: chooseResult });
    const count = answer.results.length;
    const found = text(["foundNone", "foundOne"][count] ?? "found", { count });
    clearTimeout(wait);
    say(`${$("heard").textContent} ${found}`.trim());
  } catch (error) {
    complain(error);
  } finally {
    clearTimeout(wait);
  }
}

async function chooseResult(result) {
  if (result.missing) {
    say(text("missing", { name: result.name }));
    return;
  }
  if (photo?.result === result && player.state !== "idle") {
    stop();
    return;
  }
  player.unlock();
  try {
    const blob = await service.photo(result.url);
    show(Object.assign(blob, { result }));
  } catch (error) {
    complain(error);
    return;
  }
  await describe();
}

// --- the token ----------------------------------------------------------------------------------------------------

function askToken(why) {
  tokenAsked ??= new Promise((answer) => {
    const before = document.activeElement;
    const close = (token) => {
      $("token-form").hidden = true;
      tokenAsked = null;
      before?.focus();
      answer(token);
    };
    $("token-why").textContent = why;
    $("token-form").hidden = false;
    $("token").value = "";
    $("token").focus();
    $("token-cancel").onclick = () => close(null);
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      close($("token").value.trim());
    };
  });
  return tokenAsked;
}

// --- keys, and everything else that is pressed --------------------------------------------------------------------

function escape() {
  if (recorder) {
    dropTalk();
    say(text("talkCancelled"));
  } else if (!$("camera").hidden) leaveCamera();
  else if (player.state !== "idle") stop();
}

const keys = { r: () => player.repeat(), s: () => changeSpeed(-1), f: () => changeSpeed(1) };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") escape();
  const key = keys[event.key.toLowerCase()];
  const typing = event.target.matches("select, input:not([type=checkbox])");
  if (key && !typing && $("keys").checked && !$("player").hidden) key();
  if (event.target.closest("#search, #similar") && results.move(event.key)) event.preventDefault();
});

const presses = {
  take: openCamera,
  choose: () => $("file").click(),
  shoot: async () => give(await camera.shoot()),
  "camera-close": leaveCamera,
  hear: () => (player.state === "idle" ? describe() : stop()),
  repeat: keys.r,
  slower: keys.s,
  faster: keys.f,
  second: playSecondLook,
  similar: () => search({ photo }),
};
for (const [id, press] of Object.entries(presses)) $(id).addEventListener("click", press);

for (const id of ["file", "camera-file"]) {
  $(id).addEventListener("change", ({ target }) => {
    give(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
}
document.addEventListener("paste", (event) => give(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  give(event.dataTransfer.files[0]);
});
$("preview").addEventListener("error", () => {
  $("preview").hidden = true;
  $("no-preview").hidden = false;
  $("no-preview").textContent = text("noPreview");
});
holdButton($("talk"), { isOn: () => recorder !== null, begin: beginTalk, end: endTalk });

$("keys").checked = localStorage.getItem(KEYS_KEPT) !== "off";
$("keys").addEventListener("change", () => localStorage.setItem(KEYS_KEPT, $("keys").checked ? "on" : "off"));

// --- the beginning ------------------------------------------------------------------------------------------------

fill(document);
$("hear").textContent = text("hear");
showTalk(false);
try {
  const info = await service.info();
  player.sampleRate = info.sample_rate;
  if (info.search && info.photos) {
    $("talk-help").textContent = text(info.photos === 1 ? "talkHelpOne" : "talkHelp", { count: info.photos });
    $("search").hidden = false;
    $("similar").hidden = !photo;
  }
} catch (error) {
  complain(error);
}
