"""The page of a WebUI of gradio 3.41 in Chromium: the tab txt2img and the accordion of the extension on it."""

from __future__ import annotations

from typing import Any

import httpx

CHROMIUM = "/usr/bin/chromium"
TAB = "txt2img"


class WebUIPage:
    """A context; the browser ends with it. Skips the test where there is no Chromium."""

    def __init__(self, url: str, *, timeout: float) -> None:
        self.url, self.timeout = url, timeout

    def __enter__(self) -> WebUIPage:
        from playwright.sync_api import sync_playwright

        self._play = sync_playwright().start()
        try:
            self._browser = self._play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            self.page = self._browser.new_page(viewport={"width": 1400, "height": 1700})
            self.page.set_default_timeout(1000 * self.timeout)
            self.page.goto(self.url)
            self.page.locator(f"#{TAB}_prompt textarea").wait_for()
            self.page.locator(f"#{TAB}_animatediff > .label-wrap").click()
            self.page.locator(f"#{TAB}_animatediff_model").wait_for()
        except BaseException:
            self._play.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._play.stop()

    def paste(self, infotext: str) -> None:
        """Put an image's text into the prompt and press the arrow that reads it."""
        self.page.locator(f"#{TAB}_prompt textarea").fill(infotext)
        self.page.locator(f"#tab_{TAB} #paste").click()
        first = infotext.split("\nNegative prompt:")[0]
        self.page.wait_for_function(
            f"text => document.querySelector('#{TAB}_prompt textarea').value === text", arg=first
        )

    def value(self, name: str) -> Any:
        """What a setting of the accordion shows, in its type."""
        field = self._field(name)
        if field.locator("input[type=checkbox]").count():
            return field.locator("input[type=checkbox]").is_checked()
        if field.locator("input[type=radio]").count():
            return field.locator("input[type=radio]:checked").get_attribute("value")
        if field.locator("input[type=number]").count():
            return int(field.locator("input[type=number]").first.input_value())
        return field.locator("input").first.input_value()

    def set_number(self, name: str, value: float) -> None:
        """Type a number into a setting of the accordion."""
        box = self._field(name).locator("input[type=number]").first
        box.fill(f"{value:g}")
        box.press("Tab")

    def check(self, name: str, *, on: bool) -> None:
        """Set a check box of the accordion."""
        self._field(name).locator("input[type=checkbox]").set_checked(on)

    def choose(self, model: str) -> None:
        """Choose a motion module from the list."""
        self._field("model").locator("input").first.click()
        self._field("model").locator("li", has_text=model).first.click()

    def generate(self) -> list[str]:
        """Press Generate; URLs of the images that are shown when it is done."""
        self._run()
        assert not self._errors(), self._errors()
        thumbs = self.page.locator(f"#{TAB}_gallery .thumbnail-item img").all()
        images = thumbs or self.page.locator(f"#{TAB}_gallery img").all()
        return list(dict.fromkeys(source for image in images if (source := image.get_attribute("src"))))

    def refused(self) -> str:
        """Press Generate; what the page says in the place of images."""
        self._run()
        return self._errors()

    def download(self, url: str) -> bytes:
        """The file behind an image of the page."""
        return httpx.get(url, trust_env=False).raise_for_status().content

    def _field(self, name: str) -> Any:
        return self.page.locator(f"#{TAB}_animatediff_{name}").first

    def _errors(self) -> str:
        return "\n".join(self.page.locator(f"#html_log_{TAB} .error").all_inner_texts())

    def _run(self) -> None:
        log = f"#html_log_{TAB} .performance"
        self.page.evaluate(f"document.querySelectorAll('#html_log_{TAB} .performance').forEach(part => part.remove())")
        self.page.locator(f"#{TAB}_generate").click()
        self.page.locator(log).first.wait_for(state="attached")  # the time it took is written when it is done
