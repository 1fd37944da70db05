// 16-bit mono WAV: read while it arrives, and written.

const HEADER = 44; // bytes

/** Reads a WAV from pieces that are cut anywhere; the length in its header isn't looked at, so it may be unknown. */
export class WavReader {
  sampleRate = 0; // Hz; 0 until the header is there
  #left = new Uint8Array(0);

  /** Bytes -> the samples that are whole by now, in [-1, 1]. */
  push(bytes) {
    let data = new Uint8Array(this.#left.length + bytes.length);
    data.set(this.#left);
    data.set(bytes, this.#left.length);
    if (!this.sampleRate) {
      const start = this.#readHeader(data);
      if (!start) {
        this.#left = data;
        return new Float32Array(0);
      }
      data = data.subarray(start);
    }
    const whole = data.length >> 1;
    this.#left = data.slice(2 * whole);
    const view = new DataView(data.buffer, data.byteOffset);
    return Float32Array.from({ length: whole }, (_, i) => view.getInt16(2 * i, true) / 32768);
  }

  /** Where the samples begin (bytes), or 0 while the header isn't whole. */
  #readHeader(data) {
    const view = new DataView(data.buffer);
    const name = (at) => String.fromCharCode(...data.subarray(at, at + 4));
    let rate = 0;
    for (let at = 12; at + 8 <= data.length; at += 8 + view.getUint32(at + 4, true)) {
      if (name(at) === "fmt " && at + 24 <= data.length) rate = view.getUint32(at + 12, true);
      if (name(at) === "data") {
        this.sampleRate = rate;
        return at + 8;
      }
    }
    return 0;
  }
}

/** Pieces of samples in [-1, 1] -> a WAV file. */
export function wavOf(pieces, sampleRate) {
  const samples = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const view = new DataView(new ArrayBuffer(HEADER + 2 * samples));
  const write = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, HEADER - 8 + 2 * samples, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * samples, true);
  let at = HEADER;
  for (const piece of pieces) {
    for (const sample of piece) {
      view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * sample))), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
