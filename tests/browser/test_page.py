"""A photo goes in, sound comes out; a voice goes in, photos come out; by mouse, by finger, and by keyboard alone."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from browsing import EXAMPLES, HAND_OVER, LISTEN, PHONE, Visitor

Visit = Callable[..., Visitor]
MOOSE = EXAMPLES / "moose.jpg"


def test_a_photo_is_heard_from_its_first_piece_on(visit: Visit) -> None:
    visitor = visit()
    visitor.choose(MOOSE)
    visitor.says("Press “Hear the photo”")
    assert visitor.focus() == "hear"
    visitor.hear()
    pieces = visitor.page.evaluate("window.pieces")
    assert len(pieces) > 1  # how many the network joins is its own business
    assert not pieces[0]["whole"]  # it spoke before the whole was there
    assert max(piece["peak"] for piece in pieces) > 0.05
    assert visitor.page.evaluate("document.querySelector('#audio').duration") > 1


def test_the_audio_element_repeats_what_was_heard(visit: Visit) -> None:
    visitor = visit()
    visitor.choose(MOOSE)
    visitor.hear()
    visitor.page.click("#slower")
    visitor.says("Speed 80 percent")
    visitor.page.click("#repeat")
    assert visitor.page.evaluate(LISTEN) > 0.05
    assert visitor.page.evaluate("document.querySelector('#audio').playbackRate") == 0.8
    visitor.page.click("#hear")
    visitor.says("Stopped")
    visitor.page.click("#second")
    assert visitor.page.evaluate(LISTEN) > 0.05


PRESS_AT_FIRST_SOUND = """() => {
    const timer = setInterval(() => {
        if (window.pieces.length === 0) return;
        clearInterval(timer);
        document.querySelector('#hear').click();
    }, 5);
}"""  # in the page, so that a slow machine presses in the middle too


def test_a_press_in_the_middle_stops(visit: Visit) -> None:
    visitor = visit()
    visitor.choose(MOOSE)
    visitor.page.evaluate(PRESS_AT_FIRST_SOUND)
    visitor.page.click("#hear")
    visitor.says("Stopped")
    visitor.hear()  # and begins again


def test_a_photo_is_taken_by_the_camera(visit: Visit) -> None:
    visitor = visit()
    visitor.page.click("#take")
    visitor.says("The camera is on")
    assert visitor.focus() == "shoot"
    visitor.page.click("#shoot")
    visitor.says("The photo is ready")
    assert visitor.page.evaluate("document.querySelector('#viewfinder').srcObject") is None
    visitor.until("document.querySelector('#preview').naturalWidth === 640")
    visitor.hear()


def test_a_phone_takes_it_by_its_own_camera(visit: Visit) -> None:
    visitor = visit(**PHONE)
    with visitor.page.expect_file_chooser() as camera:
        visitor.page.tap("#take")
    assert camera.value.element.get_attribute("capture") == "environment"


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(visit: Visit, kind: str) -> None:
    visitor = visit()
    visitor.page.evaluate(HAND_OVER, [kind, base64.b64encode(MOOSE.read_bytes()).decode(), "image/jpeg"])
    visitor.says("The photo is ready")
    visitor.until("document.querySelector('#preview').naturalWidth === 640")


@pytest.mark.parametrize(("recording", "found"), [("animal", "moose.jpg"), ("skier", "slope.jpg")])
def test_a_spoken_query_finds_the_right_photo_of_five(visit: Visit, recording: str, found: str) -> None:
    visitor = visit(recording=recording)
    visitor.page.hover("#talk")
    visitor.page.mouse.down()
    visitor.listens(seconds=5)
    visitor.page.mouse.up()
    visitor.says("5 photos")
    assert visitor.results()[0] == found
    assert len(visitor.results()) == 5
    visitor.says("Read by a machine", within="#heard")
    visitor.pictures()


def test_who_cant_hold_presses_twice(visit: Visit) -> None:
    visitor = visit()
    click = "document.querySelector('#talk').click()"  # as a screen reader or a switch does it
    visitor.page.evaluate(click)
    visitor.listens(seconds=5)
    visitor.page.evaluate(click)
    visitor.says("5 photos")
    visitor.page.click("#talk")  # a short press
    visitor.listens(seconds=1)
    visitor.page.keyboard.press("Escape")
    visitor.says("Nothing was sent")


def test_photos_like_a_photo_are_found(visit: Visit) -> None:
    visitor = visit()
    visitor.choose(EXAMPLES / "raccoon.jpg")
    visitor.page.click("#similar")
    visitor.says("5 photos")
    assert visitor.results()[0] == "raccoon.jpg"
    assert not visitor.page.is_visible("#heard")


def test_all_of_it_by_keyboard_alone(visit: Visit) -> None:
    visitor = visit()
    keyboard = visitor.page.keyboard

    def tab_to(target: str) -> None:
        for _ in range(30):
            if visitor.focus() == target:
                return
            keyboard.press("Tab")
        pytest.fail(f"no Tab leads to {target}")

    tab_to("choose")
    with visitor.page.expect_file_chooser() as dialog:
        keyboard.press("Enter")
    dialog.value.set_files(MOOSE)
    visitor.says("The photo is ready")
    assert visitor.focus() == "hear"
    with visitor.description():
        keyboard.press("Enter")
    keyboard.press("r")
    visitor.says("Stop", within="#hear")
    keyboard.press("s")
    keyboard.press("Escape")
    visitor.says("Stopped")
    assert visitor.page.evaluate("document.querySelector('#audio').playbackRate") == 0.8
    tab_to("talk")
    keyboard.down("Space")
    visitor.listens(seconds=5)
    keyboard.up("Space")
    visitor.says("5 photos")
    for key, place in (("ArrowDown", 0), ("ArrowDown", 1), ("End", 4), ("ArrowUp", 3), ("Home", 0)):
        keyboard.press(key)
        assert visitor.focus().startswith(f"{place + 1} of 5: ")
    with visitor.description():
        keyboard.press("Enter")
    assert visitor.focus() == "1 of 5: moose.jpg"
    tab_to("keys")
    keyboard.press("Space")
    keyboard.press("r")  # single keys are off now
    assert visitor.page.inner_text("#hear") == "Hear the photo"


def test_an_error_is_said_as_the_service_says_it(visit: Visit, tmp_path: Path) -> None:
    visitor = visit()
    visitor.page.click("#hear")
    visitor.says("First take or choose a photo")
    (tmp_path / "no.jpg").write_text("no photo")
    visitor.choose(tmp_path / "no.jpg")
    with visitor.page.expect_response(lambda response: "/v1/describe" in response.url) as answer:
        visitor.page.click("#hear")
    visitor.says(answer.value.json()["detail"])
    assert visitor.faults.pop().startswith("Failed to load resource")  # the browser's own note of the 4xx
    assert visitor.page.inner_text("#hear") == "Hear the photo"
