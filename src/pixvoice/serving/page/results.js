// The photos that a search found: a list of buttons that the arrow keys go through.

import { text } from "./strings.js";

const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

export class Results {
  #list;

  constructor(list) {
    this.#list = list;
  }

  /** Show `found` in place of what was there; `load(address)` gives a photo, `choose(result)` is told of a press. */
  show(found, { load, choose }) {
    this.clear();
    found.forEach((result, i) => {
      const button = document.createElement("button");
      const words = { place: i + 1, count: found.length, name: result.name };
      const image = new Image();
      image.alt = "";
      button.type = "button";
      button.dataset.id = result.id;
      button.append(image, text(result.missing ? "resultMissing" : "result", words));
      button.addEventListener("click", () => {
        for (const other of this.#buttons()) other.removeAttribute("aria-current");
        button.setAttribute("aria-current", "true");
        choose(result);
      });
      const item = document.createElement("li");
      item.append(button);
      this.#list.append(item);
      if (!result.missing) this.#picture(image, load(result.thumbnail));
    });
  }

  clear() {
    for (const image of this.#list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.#list.replaceChildren();
  }

  /** Go to another result by key, from wherever the focus is.  Returns whether the key was meant for that. */
  move(key) {
    const buttons = this.#buttons();
    if (!buttons.length || !(key in STEPS)) return false;
    const place = buttons.indexOf(document.activeElement) + STEPS[key];
    buttons[Math.max(0, Math.min(buttons.length - 1, place))].focus();
    return true;
  }

  #buttons() {
    return [...this.#list.querySelectorAll("button")];
  }

  async #picture(image, blob) {
    try {
      image.src = URL.createObjectURL(await blob); // not by address: an <img> can't send the token
    } catch {
      image.remove(); // the name is there still
    }
  }
}
