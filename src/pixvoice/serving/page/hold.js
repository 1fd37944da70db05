// A button that is held: with a finger, a mouse, the space bar or Enter.  For those who can't hold, a short press
// starts and the next one ends; so does the click that a screen reader or a switch makes.

const HOLD_MS = 400; // shorter is a press
const KEYS = new Set([" ", "Enter"]);

/** Call `begin` and `end` in turn.  `isOn` tells whether `begin` was called and `end` not yet. */
export function holdButton(button, { isOn, begin, end }) {
  let since = 0; // when the press began that began it, 0 for none
  let last = -Infinity; // when a pointer or a key last did something: the click that follows is theirs

  const down = () => {
    last = performance.now();
    if (isOn()) {
      since = 0;
      end();
    } else {
      since = performance.now();
      begin();
    }
  };
  const up = () => {
    last = performance.now();
    if (since && performance.now() - since >= HOLD_MS) end();
    since = 0;
  };

  button.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    button.setPointerCapture(event.pointerId);
    down();
  });
  button.addEventListener("pointerup", up);
  button.addEventListener("pointercancel", up);
  button.addEventListener("contextmenu", (event) => event.preventDefault()); // what a long touch would open
  button.addEventListener("keydown", (event) => {
    if (!KEYS.has(event.key)) return;
    event.preventDefault(); // no click of its own
    if (!event.repeat) down();
  });
  button.addEventListener("keyup", (event) => {
    if (!KEYS.has(event.key)) return;
    event.preventDefault();
    up();
  });
  button.addEventListener("blur", () => {
    if (since) up();
  });
  button.addEventListener("click", () => {
    if (performance.now() - last < HOLD_MS) return;
    if (isOn()) end();
    else begin();
  });
}
