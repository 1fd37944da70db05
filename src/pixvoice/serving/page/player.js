// Speech that is heard while it arrives, and again, slower or faster, when it is there.
//
// What arrives goes through Web Audio, piece after piece without a gap; the whole goes to an <audio> element, which
// keeps the pitch when the speed changes.  A change of speed while the speech arrives takes effect when it is whole.

import { WavReader, wavOf } from "./wav.js";

const LEAD_S = 0.05; // how far ahead the first piece is scheduled
const SPEEDS = [0.5, 0.65, 0.8, 1, 1.25, 1.5, 2];

/**
 * Tells of `change` with {state, ended}: `state` is "idle", "waiting" (for a piece) or "speaking"; `ended` is true when
 * the speech came to its end by itself.
 */
export class Player extends EventTarget {
  state = "idle";
  speed = 1;
  sampleRate = 16_000; // Hz, of what the service sends
  #audio;
  #context;
  #pieces = []; // samples that arrived
  #playing = []; // {node, at: seconds on the context's clock, from: seconds of speech before it}
  #whole = false;
  #quiet = false; // the speech still arrives, but isn't to be heard
  #arriving = new AbortController();

  constructor(audio) {
    super();
    this.#audio = audio;
    audio.addEventListener("play", () => {
      this.#silence();
      this.#become("speaking");
    });
    audio.addEventListener("pause", () => {
      if (this.state === "speaking" && !this.#playing.length) this.#become("idle", audio.ended);
    });
  }

  /**
   * Speak what `open(signal)` promises to answer: a response whose body is a WAV.  Returns when it is whole: true, or
   * false if other speech took its place or there was none.  To be called from a press of a button, or after `unlock`.
   */
  async speak(open) {
    this.drop();
    this.unlock();
    const { signal } = (this.#arriving = new AbortController());
    const wav = new WavReader();
    this.#become("waiting");
    try {
      const body = (await open(signal)).body.getReader();
      for (let next = await body.read(); !next.done && !signal.aborted; next = await body.read()) {
        this.#take(wav.push(next.value), wav.sampleRate);
      }
    } catch (error) {
      if (signal.aborted) return false;
      this.drop();
      throw error;
    }
    return !signal.aborted && this.#finish(wav.sampleRate);
  }

  /** Speak a WAV that is whole. */
  play(wav) {
    this.drop();
    this.#whole = true;
    this.#load(wav);
    this.#start();
  }

  repeat() {
    this.#silence();
    this.#quiet = false;
    if (this.#whole) {
      this.#audio.currentTime = 0;
      this.#start();
      return;
    }
    const pieces = this.#pieces.splice(0);
    for (const piece of pieces) this.#take(piece, this.sampleRate);
  }

  /** Be silent; the speech stays, and can be repeated. */
  stop() {
    this.#quiet = true;
    this.#silence();
    this.#audio.pause();
    this.#become("idle");
  }

  /** Be silent and forget the speech; if it is being made, that ends too. */
  drop() {
    this.#arriving.abort();
    this.stop();
    this.#quiet = this.#whole = false;
    this.#pieces = [];
    if (this.#audio.src) URL.revokeObjectURL(this.#audio.src);
    this.#audio.removeAttribute("src");
  }

  /** One step slower (-1) or faster (1).  Returns the new speed. */
  changeSpeed(step) {
    const place = SPEEDS.indexOf(this.speed) + step;
    this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, place))];
    this.#audio.defaultPlaybackRate = this.#audio.playbackRate = this.speed;
    if (this.#whole && this.#playing.length) this.#handOver();
    return this.speed;
  }

  /** Let the browser make sound.  To be called from a press of a button, before anything is waited for. */
  unlock() {
    if (navigator.audioSession) navigator.audioSession.type = "playback"; // heard though the phone is set to silent
    // At the speech's own rate: pieces that the browser converts one by one click where they meet.
    this.#context ??= new AudioContext({ sampleRate: this.sampleRate });
    this.#context.resume();
  }

  #take(samples, sampleRate) {
    if (!samples.length) return;
    const from = this.#pieces.reduce((sum, piece) => sum + piece.length, 0) / sampleRate;
    this.#pieces.push(samples);
    if (this.#quiet) return;
    const buffer = this.#context.createBuffer(1, samples.length, sampleRate);
    buffer.copyToChannel(samples, 0);
    const node = new AudioBufferSourceNode(this.#context, { buffer });
    const last = this.#playing.at(-1);
    const follows = last ? last.at + last.node.buffer.duration : 0;
    const now = this.#context.currentTime;
    const at = follows > now ? follows : now + LEAD_S;
    node.connect(this.#context.destination);
    node.onended = () => this.#pieceEnded(node);
    node.start(at);
    this.#playing.push({ node, at, from });
    this.#become("speaking");
  }

  #pieceEnded(node) {
    if (this.#playing.at(-1)?.node !== node) return;
    if (!this.#whole) {
      this.#become("waiting");
      return;
    }
    this.#playing = [];
    this.#become("idle", true);
  }

  #finish(sampleRate) {
    if (!this.#pieces.length) {
      this.drop();
      return false;
    }
    this.#whole = true;
    this.#load(wavOf(this.#pieces, sampleRate));
    if (this.state === "waiting") this.#become("idle", true);
    else if (this.#playing.length && this.speed !== 1) this.#handOver();
    return true;
  }

  #load(wav) {
    this.#audio.src = URL.createObjectURL(wav);
    this.#audio.defaultPlaybackRate = this.#audio.playbackRate = this.speed;
  }

  /** Let the <audio> element play; when it is stopped before it could, it stays silent. */
  #start() {
    this.#audio.play().catch(() => {});
  }

  /** From Web Audio to the <audio> element, in the middle of the speech. */
  #handOver() {
    const now = this.#context.currentTime;
    const heard = this.#playing.findLast((piece) => piece.at <= now);
    this.#audio.currentTime = heard ? heard.from + Math.min(now - heard.at, heard.node.buffer.duration) : 0;
    this.#start();
  }

  #silence() {
    const playing = this.#playing.splice(0);
    for (const { node } of playing) node.stop();
  }

  #become(state, ended = false) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("change", { detail: { state, ended } }));
  }
}
