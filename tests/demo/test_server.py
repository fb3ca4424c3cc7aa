"""The page in the browser: what it answers, whom it refuses, and that it ends."""

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segunet import load
from segunet.base.errors import UserError
from segunet.demo import __main__ as demo
from segunet.demo.server import Server
from segunet.demo.subject import Subject
from segunet.inference.checkpoint import load_checkpoint
from tests.browser import browser, program
from tests.commands import Command

SETTINGS = {"tile": None, "overlap": 0.25, "inference_size": "checkpoint", "image_range": "checkpoint"}
SETTINGS |= {"accelerator": "cpu", "precision": "32-true"}


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[Server]:
    """Serve the page of a small network."""
    path = trained / "checkpoints" / "best.ckpt"
    with Server(Subject(load_checkpoint(path), "<best>", SETTINGS), 0, max_bytes=1_000_000) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def image(trained: Path) -> Path:
    return trained / "voc" / "JPEGImages" / "val_1.jpg"


def answer(
    server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, str, Any]:
    """Return the status, the text and the headers of an answer."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text, response.headers


def array(address: str) -> Any:
    """Return the image in a data URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    status, page, headers = answer(server, "GET", "/")
    assert status == 200
    assert "3 classes (background, disc, square)" in page
    assert "&lt;best&gt;" in page
    assert "<best>" not in page
    assert not re.search(r"(src|href)=.?https?:", page)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    (nonce,) = set(re.findall(r"'nonce-([\w-]+)'", policy))
    assert page.count(f'nonce="{nonce}"') == 2
    assert nonce not in answer(server, "GET", "/")[1]


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_an_image_s_classes_are_those_that_predict_finds(server: Server, trained: Path, image: Path, tta: str) -> None:
    status, text, _ = answer(server, "POST", f"/predict?name=a.jpg&tta={tta}", image.read_bytes())
    assert status == 200, text
    found = json.loads(text)
    wanted = load(trained / "checkpoints" / "best.ckpt", tta=tta).predict(image)
    assert (array(found["mask"]) == wanted).all()
    assert ((array(found["painted"])[..., 3] > 0) == (wanted > 0)).all()
    assert array(found["image"]).shape == (*wanted.shape, 3)
    names = ["background", "disc", "square"]
    shares = {each["name"]: each["share"] for each in found["classes"]}
    assert shares == {names[index]: (wanted == index).mean() for index in np.unique(wanted)}
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_what_cannot_be_answered_says_why(server: Server, image: Path) -> None:
    content = image.read_bytes()
    for request, status, words in (
        (("GET", "/other", b""), 404, "no such page"),
        (("PUT", "/predict", content), 501, "Unsupported method ('PUT')"),
        (("POST", "/other", content), 400, "Wanted an image's file"),
        (("POST", "/predict?name=a.jpg", content[:500]), 422, "a.jpg"),
        (("POST", "/predict?name=..%2F..%2Fb.jpg", b"text"), 422, "../../b.jpg"),
        (("POST", "/predict", bytes(1_000_001)), 413, "larger than 1 MB"),
    ):
        got, text, _ = answer(server, *request)
        assert (got, words in json.loads(text)["error"]) == (status, True), text
        assert "segunet-demo" not in text
    assert answer(server, "POST", "/predict?name=a.jpg", content)[0] == 200  # the page goes on


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:7860"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
    ],
)
def test_other_sites_are_refused(server: Server, image: Path, headers: dict[str, str]) -> None:
    assert answer(server, "POST", "/predict", image.read_bytes(), headers)[0] == 403
    if "Host" in headers:
        assert answer(server, "GET", "/", headers=headers)[0] == 403


def test_its_own_requests_are_answered(server: Server, image: Path) -> None:
    for host in ("localhost", "127.0.0.1:80", "localhost:8000"):  # through a tunnel the port is another one
        assert (
            answer(server, "POST", "/predict", image.read_bytes(), {"Host": host, "Origin": f"http://{host}"})[0] == 200
        )


def test_it_listens_on_the_loopback_address_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_bad_settings_are_one_paragraph(run: Command, trained: Path) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for setting, words in {
            "checkpoint=null": "Which checkpoint?",
            "port=70000": "port must be less than or equal to 65535",
            "max_megabytes=0": "max_megabytes must be greater than 0",
            "tile=3": "tile must be greater than or equal to 32",
            f"port={taken.getsockname()[1]}": "Address already in use. Give another port",
        }.items():
            result = run(demo, checkpoint, setting)
            assert (result.status, words in result.error) == (1, True), result.error


def test_an_image_that_is_too_large_for_a_browser_is_refused(server: Server) -> None:
    content = io.BytesIO()
    Image.new("L", (16_400, 4)).save(content, "png")
    status, text, _ = answer(server, "POST", "/predict?name=wide.png", content.getvalue())
    assert (status, "wide.png has 16400 x 4 pixels, too many" in text) == (422, True), text


def test_an_unknown_augmentation_is_refused(server: Server, image: Path) -> None:
    status, text, _ = answer(server, "POST", "/predict?tta=bogus", image.read_bytes())
    assert (status, "tta must be one of" in text, "bogus" in text) == (422, True, True), text


def test_none_is_predicted_after_the_end(trained: Path, image: Path) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    subject = Subject(load_checkpoint(path), "net", SETTINGS)
    subject.finish()
    subject._one_at_a_time.release()
    with pytest.raises(UserError, match="The program ends"):
        subject.predict(image.read_bytes(), "a.jpg", tta="none")


def test_a_signal_ends_the_command(trained: Path) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"
    words = [sys.executable, "-m", "segunet.demo", checkpoint, "port=0", "accelerator=cpu", "precision=32-true"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = (re.search(r"http://127\.0\.0\.1:(\d+)", line) for line in process.stdout)
            address = next(filter(None, found), None)
            assert address is not None
            connection = HTTPConnection("127.0.0.1", int(address[1]), timeout=60)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 128 + signal.SIGTERM
        finally:
            process.kill()


@pytest.mark.skipif(program() is None, reason="needs Chromium and Playwright")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_browser_shows_the_classes_of_the_images_that_are_chosen(
    server: Server, trained: Path, tmp_path: Path, width: int
) -> None:
    from playwright.sync_api import expect

    images = [trained / "voc" / "JPEGImages" / f"val_{number}.jpg" for number in (0, 1)]
    (tmp_path / "text.jpg").write_text("no image")
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": 900})
        errors: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Policy" in message.text else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.set_input_files("#files", [*images, tmp_path / "text.jpg"])
        expect(page.locator("article .error")).to_have_count(1)
        expect(page.locator("article:not([aria-busy]) table")).to_have_count(2)
        assert "background" in page.locator("article").first.inner_text()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        page.locator("#opacity").fill("20")
        painted = page.locator("article .painted").first
        assert painted.evaluate("image => getComputedStyle(image).opacity") == "0.2"
        with Image.open(images[0]) as first:
            size = first.size
        for button, mode in (("Mask", "P"), ("Overlay", "RGBA")):
            with page.expect_download() as download:
                page.get_by_role("button", name=button).first.click()
            with Image.open(download.value.path()) as written:
                assert (written.mode, written.size) == (mode, size)
        page.locator("#tta").check()
        expect(page.locator("article[aria-busy]")).to_have_count(0)
        assert sum("tta=flip" in url for url in asked) == 3
        assert not errors
