// Hands on what the microphone hears, until it is told to stop.

class Tap extends AudioWorkletProcessor {
  #on = true;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#on = false;
      this.port.postMessage(null);
    };
  }

  process([[samples]]) {
    if (this.#on && samples) this.port.postMessage(samples.slice());
    return this.#on;
  }
}

registerProcessor("tap", Tap);
