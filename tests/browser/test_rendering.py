"""What a model writes becomes text and a few kinds of elements; it never runs or loads anything."""

import json
import re
import time

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Playground
from tests.browser.stage import Stage, says

TRAP = "window.trapped = true"
HOSTILE = [
    f"<script>{TRAP}</script>",
    f"<img src=x onerror='{TRAP}'>",
    f'<img src="x" onerror="{TRAP}"',
    f"<svg onload='{TRAP}'><circle/></svg>",
    f"<svg><script>{TRAP}</script></svg>",
    f"<iframe srcdoc=\"<script>parent.{TRAP}</script>\"></iframe>",
    f"<details open ontoggle='{TRAP}'>x</details>",
    f"<a href='javascript:{TRAP}'>click</a>",
    f"[click](javascript:{TRAP})",
    f"[click](<javascript:{TRAP}>)",
    f"[click](JaVaScRiPt:{TRAP})",
    f"[click](java\tscript:{TRAP})",
    f"[click](&#106;avascript:{TRAP})",
    f"[click](\x01javascript:{TRAP})",
    f"[click](vbscript:{TRAP})",
    f"[click](data:text/html,<script>{TRAP}</script>)",
    f"[click](blob:{TRAP})",
    f"[click][1]\n\n[1]: javascript:{TRAP}",
    f"<javascript:{TRAP}>",
    f"![x](javascript:{TRAP})",
    "![x](https://evil.example/pixel.png)",
    f"![x](data:image/svg+xml,<svg onload='{TRAP}'/>)",
    f"![\"><img src=x onerror={TRAP}>](https://evil.example/x)",
    f"[x](https://evil.example/\"onmouseover=\"{TRAP})",
    f"[x](https://evil.example 'a\" onmouseover=\"{TRAP}')",
    f"```\"><img src=x onerror={TRAP}>\ncode\n```",
    f"```html\n</code></pre><script>{TRAP}</script>\n```",
    f"`</code><img src=x onerror={TRAP}>`",
    f"| a |\n|---|\n| <img src=x onerror={TRAP}> |",
    "# <style>@import 'https://evil.example'</style>",
    f"'\"\"'`><img src=x onerror={TRAP}>",
    "<form action=https://evil.example><button>x</button></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example>",
    f"</template></div></article><img src=x onerror={TRAP}>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={TRAP}>",
]  # fmt: skip
ALLOWED = {
    "A", "BLOCKQUOTE", "BR", "BUTTON", "CODE", "DIV", "EM", "FIGCAPTION", "FIGURE", "H1", "H2", "H3", "H4",
    "H5", "H6", "HR", "LI", "OL", "P", "PRE", "S", "SPAN", "STRONG", "TABLE", "TBODY", "TD", "TH", "THEAD",
    "TR", "UL",
}  # fmt: skip
ATTRIBUTES = {"href", "target", "rel", "class", "start", "tabindex", "type", "data-do", "aria-label"}

INSPECT = """() => {
  const within = [...document.querySelectorAll(".answer .prose *")];
  return {
    trapped: window.trapped === true,
    names: [...new Set(within.map((element) => element.tagName))],
    attributes: [...new Set(within.flatMap((element) => element.getAttributeNames()))],
    links: within.filter((one) => one.tagName === "A").map((one) => [one.protocol, one.rel]),
  };
}"""


def test_hostile_text_stays_text(playground: Playground, stage: Stage) -> None:
    sent: list[str] = []
    playground.page.on("request", lambda request: sent.append(request.url))
    for number, text in enumerate(HOSTILE):
        stage.plays(*says(text, f"\n\nend {number}"))
        expect(playground.ask("Go.")).to_contain_text(f"end {number}")
        found = playground.evaluate(INSPECT)
        assert not found["trapped"], text
        assert set(found["names"]) <= ALLOWED, text
        assert set(found["attributes"]) <= ATTRIBUTES, text
        for protocol, relation in found["links"]:
            assert protocol in ("https:", "http:", "mailto:"), text
            assert relation == "noopener noreferrer nofollow", text
    assert {url for url in sent if not url.startswith((stage.url, f"blob:{stage.url}"))} == set()


def test_hostile_text_cut_anywhere_stays_text(playground: Playground, stage: Stage) -> None:
    stage.plays(*says(*"\n\n".join(HOSTILE), "\n\nend"))
    expect(playground.ask("Go.")).to_contain_text("end")
    found = playground.evaluate(INSPECT)
    assert not found["trapped"]
    assert set(found["names"]) <= ALLOWED
    assert all(protocol != "javascript:" for protocol, _ in found["links"])


@pytest.mark.parametrize("place", ["reasoning", "model", "question", "error", "title"])
def test_no_other_place_takes_markup_either(playground: Playground, stage: Stage, place: str) -> None:
    trap = f"<img src=x onerror='{TRAP}'>"
    choice = {"index": 0, "delta": {"content": "ok", "reasoning_content": trap}, "finish_reason": None}
    events = [f"data: {json.dumps({'model': trap, 'choices': [choice]})}\n\n".encode()]
    if place == "error":
        events.append(
            b"data: "
            + json.dumps({"error": {"message": trap, "code": trap, "param": trap}}).encode()
            + b"\n\n"
        )
    stage.plays(*events, *says("end"))
    playground.ask(trap)
    assert playground.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert playground.evaluate("window.trapped") is None


def test_the_policy_would_hold_a_script_that_came_in(playground: Playground) -> None:
    tried = playground.evaluate(
        """async () => {
          await new Promise((done) => setTimeout(done)); // what Playwright itself runs may do more
          const script = document.createElement("script");
          script.append("window.trapped = true");
          document.body.append(script);
          let html = "";
          try { document.body.innerHTML += "<b>x</b>"; } catch (problem) { html = problem.name; }
          let evaluated = "";
          try { window["ev" + "al"]("window.trapped = true"); } catch (problem) { evaluated = problem.name; }
          const sent = await fetch("https://evil.example/").catch((problem) => problem.name);
          return { trapped: window.trapped === true, html, evaluated, sent };
        }"""
    )
    assert tried == {"trapped": False, "html": "TypeError", "evaluated": "EvalError", "sent": "TypeError"}
    assert any("Content Security Policy" in problem for problem in playground.problems)
    playground.problems.clear()


MARKDOWN = """# Title

A *first* **paragraph** with `code`, ~~old~~ and [a link](https://example.org/a?b=c).
Its second line.

1. one
2. two
   - nested **item**

7. seven

> quoted

| left | right |
|:-----|------:|
| a    | 1     |

```python
print("<b>")
```

See [the page][1].

[1]: https://example.org/later

https://example.org &amp; 5 < 6 \\*stars\\*

---
"""


def test_markdown_becomes_elements(playground: Playground, stage: Stage) -> None:
    stage.plays(*says(*re.findall(r"[^\n]*\n?", MARKDOWN)))
    content = playground.ask("Write.")
    expect(content.locator("h1")).to_have_text("Title")
    expect(content.locator("p > em")).to_have_text("first")
    expect(content.locator("p > strong")).to_have_text("paragraph")
    expect(content.locator("p > code")).to_have_text("code")
    expect(content.locator("p > s")).to_have_text("old")
    expect(content.locator("a").first).to_have_attribute("href", "https://example.org/a?b=c")
    expect(content.locator("a", has_text="the page")).to_have_attribute("href", "https://example.org/later")
    expect(content.locator("p br")).to_have_count(1)
    expect(content.locator("ol > li > ul > li > strong")).to_have_text("item")
    expect(content.locator("blockquote")).to_have_text("quoted")
    expect(content.locator("td.right")).to_have_text("1")
    expect(content.locator("figure figcaption span")).to_have_text("python")
    expect(content.locator("figure pre code")).to_have_text('print("<b>")')
    expect(content.locator("p").last).to_have_text("https://example.org & 5 < 6 *stars*")
    expect(content.locator("hr")).to_have_count(1)


def test_blocks_that_are_finished_stay_the_same_elements(playground: Playground, stage: Stage) -> None:
    found = playground.evaluate(
        """async () => {
          const { render } = await import("/playground/markdown.js");
          const place = document.createElement("div");
          const text = "First *block*.\\n\\n- a\\n- b\\n\\nLast";
          let before = null, same = 0;
          for (let end = 1; end <= text.length; end++) {
            render(place, text.slice(0, end));
            if (end > 20 && place.firstChild === before) same++;
            before = place.firstChild;
          }
          return { same, text: place.innerText, steps: text.length - 20 };
        }"""
    )
    assert found["same"] == found["steps"]


def test_nasty_texts_do_not_stop_the_page(playground: Playground) -> None:
    units = {"[": 20_000, "> ": 20_000, "*a ": 20_000, "`": 20_000, "- ": 5_000, "![": 10_000, "|": 20_000}
    for unit, count in units.items():
        started = time.monotonic()
        playground.evaluate(
            """async (text) => {
              const { render } = await import("/playground/markdown.js");
              render(document.createElement("div"), text);
            }""",
            unit * count + "x",
        )
        assert time.monotonic() - started < 15, unit


SSE = """async (pieces) => {
  const { events } = await import("/playground/sse.js");
  const found = [];
  for (const some of pieces) {
    const stream = new ReadableStream({ start(controller) {
      for (const piece of some) controller.enqueue(new Uint8Array(piece));
      controller.close();
    } });
    const one = [];
    for await (const event of events(stream)) one.push([event.event, event.data]);
    found.push(one);
  }
  return found;
}"""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_may_be_cut_at_any_byte(playground: Playground, end: str) -> None:
    text = ': ping||data: 你好 😀||event: error|data: {"a"|data:  1}||data||event: x||id: 1|data: last||'
    whole = list(text.replace("|", end).encode())
    wanted = [["message", "你好 😀"], ["error", '{"a"\n 1}'], ["message", ""], ["message", "last"]]
    cuts = [[whole[:place], whole[place:]] for place in range(len(whole) + 1)]
    cuts.append([[byte] for byte in whole])
    for found in playground.evaluate(SSE, cuts):
        assert found == wanted


def test_an_event_without_its_end_is_none(playground: Playground) -> None:
    (found,) = playground.evaluate(SSE, [[list(b"data: one\n\ndata: two\n")]])
    assert found == [["message", "one"]]
