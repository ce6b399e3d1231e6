// The panels beside the conversation, which on a narrow page lie over it.

const narrow = matchMedia("(max-width: 60rem)");
const panels = ["history", "settings"];
const byId = (id) => document.getElementById(id);

/** Make the buttons work; the conversations are open where there is room. */
export function install() {
  for (const name of panels) {
    byId(`toggle-${name}`).addEventListener("click", () => (byId(name).hidden ? open(name) : close(name)));
    show(name, name === "history" && !narrow.matches);
  }
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => close(button.dataset.close));
  }
  narrow.addEventListener("change", () => panels.forEach((name) => show(name, name === "history" && !narrow.matches)));
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".panel")) closeOverlay();
  });
}

/** Open a panel and go there. */
export function open(name) {
  if (narrow.matches) panels.forEach((other) => show(other, false));
  show(name, true);
  byId(name).focus();
}

/** Close what lies over the conversation; whether there was anything. */
export function closeOverlay() {
  const found = narrow.matches ? panels.find((name) => !byId(name).hidden) : undefined;
  if (found) close(found);
  return Boolean(found);
}

function close(name) {
  const within = byId(name).contains(document.activeElement);
  show(name, false);
  if (within) byId(`toggle-${name}`).focus();
}

function show(name, value) {
  byId(name).hidden = !value;
  byId(`toggle-${name}`).setAttribute("aria-expanded", String(value));
  document.querySelector("main").inert = narrow.matches && panels.some((one) => !byId(one).hidden);
}
