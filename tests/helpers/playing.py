"""A player in a browser: what it shows, and what a play shows while it runs, by the page's own clock."""

from datetime import datetime

from playwright.sync_api import Locator

# Plays, and notes each state that is shown with the milliseconds since the button was pressed.
WATCH = """root => new Promise((done) => {
  const text = (part) => root.querySelector(part).textContent, seen = [], button = root.querySelector(".play");
  const begun = performance.now();
  const watcher = new MutationObserver(() => {
    const [progressive, alone] = [...root.querySelectorAll(".answer")].map((one) => one.textContent);
    const bars = [...root.querySelectorAll("button.unit > i")].map((one) => parseFloat(one.style.width));
    const owners = [...root.querySelectorAll("button.unit")].map((one) => one.dataset.owner).join("");
    seen.push({ ms: performance.now() - begun, progressive, alone, bars, owners, accuracy: text(".accuracy"),
                clock: parseFloat(text(".clock")), came: text(".came") });
    if (button.textContent === "Play") { watcher.disconnect(); done(seen); }
  });
  watcher.observe(root, { subtree: true, childList: true, characterData: true, attributes: true });
  button.click();
})"""


def watch_a_play(player: Locator) -> list[dict]:
    """Every state that a play shows, from its beginning to its end."""
    return player.evaluate(WATCH)


def stop_the_clock(player: Locator) -> None:
    """Let time pass on the player's page only where a test says so: nobody waits, and no other work delays a frame."""
    clock = player.page.clock
    clock.install(time=datetime(2030, 1, 1))
    clock.pause_at(datetime(2030, 1, 2))


def watch_a_play_for(player: Locator, ms: float) -> list[dict]:
    """The same as `watch_a_play`, on a page whose clock is stopped, which lets so much time pass; the play has to end by then."""
    player.evaluate(f"root => {{ window.play = ({WATCH})(root); }}")
    player.page.clock.run_for(round(ms))
    seen = player.page.evaluate("Promise.race([window.play, Promise.resolve().then(() => null)])")
    assert seen, f"still playing after {ms} ms"
    return seen


def first_ms(seen: list[dict], **wanted: str) -> float:
    """When a state was first shown that has these words."""
    return next(state["ms"] for state in seen if all(state[name] == value for name, value in wanted.items()))


def words(player: Locator) -> str:
    """The words below a player."""
    return player.locator("[role=status]").inner_text()


def captions(player: Locator) -> list[str]:
    """What is said of each picture."""
    return player.locator("figcaption").all_inner_texts()


def check_handover(seen: list[dict], order: list[str]) -> None:
    """A play begins with no answer and goes through the masks of an order to the last; a slow browser may miss short ones."""
    shown = [state["owners"] for state in seen]
    distinct = sorted(set(shown), key=shown.index)
    assert [mask for mask in ["", *order] if mask in distinct] == distinct
    assert (distinct[0], distinct[-1]) == ("", order[-1])
    assert len(distinct) > len(order) / 2
    assert {state["alone"] for state in seen} == {"still waiting", "answers now"}
