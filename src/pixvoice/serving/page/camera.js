// The camera of a desktop, in the page.  A phone's own camera program is better at it, and known to its user.

/** Whether the camera is to be opened in the page. */
export function inPage() {
  return Boolean(navigator.mediaDevices) && !matchMedia("(pointer: coarse)").matches;
}

export class Camera {
  #video;
  #stream;

  constructor(video) {
    this.#video = video;
  }

  /** Rejects if the browser gives no camera. */
  async open() {
    this.#stream = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 1280 }, facingMode: "environment" },
    });
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  /** What the camera sees now, as a JPEG. */
  shoot() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#video.srcObject = this.#stream = null;
  }
}
