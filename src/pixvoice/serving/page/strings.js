// Every text of the page.  To translate it: copy this file, translate the right-hand sides, keep the words in {braces}.

export const language = "en";

const strings = {
  tagline: "Pictures that speak.",

  photoTitle: "Hear a photo",
  take: "Take a photo",
  choose: "Choose a photo",
  dropHere: "You can also drop a photo here, or paste one.",
  preview: "The photo that you gave",
  noPreview: "This browser can’t show the photo, but it can be described.",
  photoReady: "The photo is ready. Press “{button}”.",
  noPhoto: "First take or choose a photo.",
  hear: "Hear the photo",
  hearStop: "Stop",
  looking: "Looking at the photo …",
  nothingSaid: "The service sent no speech. Try again.",

  camera: "Camera",
  viewfinder: "What the camera sees",
  shoot: "Take the picture",
  cameraClose: "Close the camera",
  cameraOpen: "The camera is on. Press “{button}”.",
  cameraClosed: "The camera is off.",
  cameraRefused: "The browser gives no camera: {reason}. Allow it in the browser’s settings, or choose a photo.",

  player: "Playback",
  audio: "The description",
  repeat: "Repeat",
  slower: "Slower",
  faster: "Faster",
  speed: "Speed {percent} percent.",
  stopped: "Stopped.",
  ended: "That was the description.",
  second: "Hear a second look",
  length: "Length",
  lengthShort: "Short",
  lengthNormal: "Normal",
  lengthLong: "Long",

  // What the machine thinks of its second look: the keys are the service's words.
  sure: "After a second look, the machine is sure. It can still be wrong.",
  "fairly sure": "After a second look, it is probably so: the machine is fairly sure.",
  unsure: "After a second look, it may be so: the machine is unsure.",
  "a guess": "After a second look, it may be something else: the machine is guessing.",

  searchTitle: "Find photos by speaking",
  talk: "Hold to speak",
  talkOn: "Listening",
  talkHelp: "{count} photos can be found. Hold the button, or the space bar on it, while you say what is in the " +
    "photo. If you can’t hold: press once to start and once more to stop.",
  talkHelpOne: "One photo can be found. Hold the button, or the space bar on it, while you say what is in the " +
    "photo. If you can’t hold: press once to start and once more to stop.",
  talkReady: "The microphone is ready. Hold the button and speak.",
  talkShort: "That was too short. Hold the button while you speak.",
  talkCancelled: "Nothing was sent.",
  microphoneRefused: "The browser gives no microphone: {reason}. Allow it in the browser’s settings.",
  notSecure: "browsers give it only to pages of this computer or over https",
  searching: "Searching …",
  similar: "Find photos like this one",
  heard: "Read by a machine, may be misheard: “{text}”",
  results: "Photos that were found, best first",
  result: "{place} of {count}: {name}",
  resultMissing: "{place} of {count}: {name} (no longer there)",
  missing: "{name}: the photo is no longer in its place.",
  found: "{count} photos. The arrow keys go through them; Enter describes one.",
  foundOne: "One photo. Enter on it describes it.",
  foundNone: "No photo was found.",

  tokenTitle: "This service asks for a token",
  token: "Token",
  tokenSend: "Use this token",
  tokenCancelled: "Without the token the service doesn’t answer. Load the page again to type it.",
  cancel: "Cancel",
  unreachable: "The service can’t be reached. Is “pixvoice serve” still running?",
  brokeOff: "The answer broke off. Try again.",
  failed: "The service answered {status} without saying why.",

  keys: "Keys: R repeats, S slower, F faster. Escape always stops.",
  caution: "The speech is made by a machine that learned from few photos. It is often wrong: don’t use it where " +
    "safety depends on it.",
  privacy: "Your photo and your voice go to the service that this page came from, and nowhere else. It doesn’t keep " +
    "them.",
};

/** The text called `key`, with its {words} filled in. */
export function text(key, words = {}) {
  return strings[key].replace(/\{(\w+)\}/g, (_, word) => words[word]);
}

export function has(key) {
  return Object.hasOwn(strings, key);
}

/** Give the elements of the page their texts. */
export function fill(page) {
  page.documentElement.lang = language;
  for (const element of page.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of page.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
  }
  for (const element of page.querySelectorAll("[data-alt]")) element.alt = text(element.dataset.alt);
}
