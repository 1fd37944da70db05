// The microphone, as a WAV of the rate that search listens at.

import { wavOf } from "./wav.js";

const RATE = 16_000; // Hz
const BEEP_S = 0.09; // seconds
const BEEP_HZ = 880;

export class Recorder {
  #stream;
  #context;
  #tap;
  #pieces = [];

  /** Begin; resolves after the beep that says so.  Rejects if the browser gives no microphone. */
  async start() {
    if (navigator.audioSession) navigator.audioSession.type = "play-and-record";
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    try {
      this.#context = new AudioContext();
      await this.#context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
      await this.#beep();
      this.#tap = new AudioWorkletNode(this.#context, "tap", { channelCount: 1, channelCountMode: "explicit" });
      this.#tap.port.onmessage = ({ data }) => this.#pieces.push(data);
      // It gives out silence; what leads nowhere isn't run by every browser.
      this.#context.createMediaStreamSource(this.#stream).connect(this.#tap).connect(this.#context.destination);
    } catch (error) {
      this.cancel();
      throw error;
    }
  }

  /** End; returns {wav, seconds}. */
  async stop() {
    await new Promise((done) => {
      this.#tap.port.onmessage = ({ data }) => (data ? this.#pieces.push(data) : done());
      this.#tap.port.postMessage("stop");
    });
    const rate = this.#context.sampleRate;
    this.cancel();
    const length = this.#pieces.reduce((sum, piece) => sum + piece.length, 0);
    const samples = length ? await resample(this.#pieces, length, rate) : new Float32Array(0);
    return { wav: wavOf([samples], RATE), seconds: length / rate };
  }

  /** Switch the microphone off. */
  cancel() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context?.state !== "closed") this.#context?.close();
  }

  #beep() {
    const tone = new OscillatorNode(this.#context, { frequency: BEEP_HZ });
    const quiet = new GainNode(this.#context, { gain: 0.15 });
    tone.connect(quiet).connect(this.#context.destination);
    tone.start();
    tone.stop(this.#context.currentTime + BEEP_S);
    return new Promise((done) => (tone.onended = done));
  }
}

/** Pieces of samples at `rate` (Hz) -> samples at RATE, through the browser's own converter. */
async function resample(pieces, length, rate) {
  const context = new OfflineAudioContext(1, Math.ceil((length * RATE) / rate), RATE);
  const buffer = context.createBuffer(1, length, rate);
  let at = 0;
  for (const piece of pieces) {
    buffer.copyToChannel(piece, 0, at);
    at += piece.length;
  }
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}
