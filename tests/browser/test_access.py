"""Whoever can't see, hear, hold or read small print: checked in every state, light and dark, large and small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pixvoice
from browsing import DESKTOP, EXAMPLES, PHONE, SMALLEST, ZOOMED, Visitor, faults, served

Visit = Callable[..., Visitor]
MOOSE = EXAMPLES / "moose.jpg"
PAGE = Path(pixvoice.__file__).parent / "serving" / "page"
WITHOUT_SCRIPTS = {"PixVoice", "PixVoice needs JavaScript, which is off in this browser."}
TOKEN = "correct horse"


def states(visitor: Visitor, tmp_path: Path) -> Iterator[str]:
    """Bring the page into each of its states, one after the other."""
    page = visitor.page
    yield "at first"
    if visitor.page.evaluate("matchMedia('(pointer: fine)').matches"):
        page.click("#take")
        visitor.says("The camera is on")
        yield "with the camera on"
        page.click("#camera-close")
    (tmp_path / "no.jpg").write_text("no photo")
    visitor.choose(tmp_path / "no.jpg")
    page.click("#hear")
    visitor.says("not a photo")
    visitor.faults.clear()  # the browser's own note of the 4xx
    yield "after an error"
    visitor.choose(MOOSE)
    visitor.says("The photo is ready")
    yield "with a photo"
    with visitor.description():
        page.click("#hear")
        visitor.until("window.pieces.length > 0")
        yield "speaking"
    yield "after speaking"
    page.evaluate("document.querySelector('#talk').click()")
    visitor.listens(seconds=5)
    yield "listening"
    page.evaluate("document.querySelector('#talk').click()")
    visitor.says("5 photos")
    yield "with results"
    with visitor.description():
        page.locator("#results button").first.click()
    yield "with a result that was described"


def test_no_state_has_a_fault_or_is_wider_than_the_window(visit: Visit, tmp_path: Path) -> None:
    """Whole, at 200 %, and on 320 pixels."""
    visitor = visit(**DESKTOP)
    for state in states(visitor, tmp_path):
        assert faults(visitor.page) == [], state
        for size in (ZOOMED, SMALLEST):
            visitor.page.set_viewport_size(size)
            assert visitor.overflow() == 0, f"{state}, {size}"
        visitor.page.set_viewport_size(DESKTOP["viewport"])


def test_no_state_has_a_fault_on_a_phone(visit: Visit, tmp_path: Path) -> None:
    visitor = visit(**PHONE)
    for state in states(visitor, tmp_path):
        assert faults(visitor.page) == [], state
        assert visitor.overflow() == 0, state
    visitor.page.evaluate("document.documentElement.style.fontSize = '200%'")  # the text alone, twice as large
    assert faults(visitor.page) == []
    assert visitor.overflow() == 0


def test_every_control_is_large_enough_for_a_finger(visit: Visit) -> None:
    visitor = visit(**PHONE)
    visitor.choose(MOOSE)
    visitor.hear()
    for control in visitor.page.locator("button:visible, select:visible").all():
        assert control.bounding_box()["height"] >= 44


def test_what_has_the_focus_shows_it(visit: Visit) -> None:
    visitor = visit()
    for _ in range(6):
        visitor.page.keyboard.press("Tab")
        style = visitor.page.evaluate(
            "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))"
        )
        assert style == ["solid", "4px"], visitor.focus()


def test_nothing_moves_for_who_wants_no_motion(visit: Visit) -> None:
    visitor = visit(**DESKTOP, reduced_motion="reduce")
    visitor.page.evaluate("document.querySelector('#hear').classList.add('busy')")
    name = "getComputedStyle(document.querySelector('#hear')).animationName"
    assert visitor.page.evaluate(name) == "none"
    visitor.page.emulate_media(reduced_motion="no-preference")
    assert visitor.page.evaluate(name) != "none"


def test_the_live_region_is_silent_while_the_machine_speaks(visit: Visit) -> None:
    """A screen reader must not talk over the description."""
    visitor = visit()
    assert visitor.page.get_by_role("status").get_attribute("id") == "status"
    visitor.choose(MOOSE)
    visitor.page.evaluate("""() => {
      window.said = [];
      const note = () => window.said.push([document.querySelector("#hear").textContent, status.textContent]);
      const status = document.querySelector("#status");
      new MutationObserver(note).observe(status, {childList: true});
    }""")
    visitor.hear()
    visitor.says("machine is")
    said = visitor.page.evaluate("window.said")
    assert {message for button, message in said if button == "Stop"} <= {"", "Looking at the photo …"}


def test_the_token_is_asked_for_and_kept_in_the_tab_alone(visit: Visit, photos: Path) -> None:
    from pixvoice.serving.app import create_app
    from pixvoice.serving.settings import Settings

    with served(create_app(Settings(photos=photos, token=TOKEN))) as address:
        visitor = visit(address)
        page = visitor.page
        visitor.says("wants its token", within="#token-why")
        assert visitor.focus() == "token"
        assert faults(page) == []
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        visitor.says("isn't the service's", within="#token-why")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#search:visible")
        visitor.choose(MOOSE)
        visitor.hear()
        page.click("#similar")
        visitor.says("5 photos")
        visitor.pictures()
        assert TOKEN not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        assert not any("horse" in url for url in visitor.requests)
        page.context.close()
    visitor.faults.clear()  # the browser's own notes of the 401s


def test_browsers_can_install_it(visit: Visit) -> None:
    visitor = visit()
    browser = visitor.page.context.new_cdp_session(visitor.page)
    assert browser.send("Page.getAppManifest")["errors"] == []
    faults = browser.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [fault["errorId"] for fault in faults if fault["errorId"] != "in-incognito"] == []


def test_every_text_is_in_the_file_of_texts() -> None:
    """So that one file is all that a translator needs."""
    texts: set[str] = set()
    named: set[str] = set()

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            texts.add(data.strip())

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            named.update(value or "" for name, value in attrs if name in ("data-text", "data-label", "data-alt"))
            assert not {name for name, _ in attrs} & {"title", "placeholder", "aria-label", "style", "onclick"}

    Reader().feed((PAGE / "index.html").read_text(encoding="utf-8"))
    assert texts - {""} == WITHOUT_SCRIPTS
    strings = (PAGE / "strings.js").read_text(encoding="utf-8")
    assert [name for name in named if f"  {name}: " not in strings] == []
