// A block of code with its language and a button that copies it; and copying itself.

/** The element for a block of code. */
export function block(text, language) {
  const element = document.getElementById("block-template").content.firstElementChild.cloneNode(true);
  const button = element.querySelector("button");
  element.querySelector("span").textContent = language;
  element.querySelector("code").textContent = text;
  button.setAttribute("aria-label", `Copy the code${language ? ` in ${language}` : ""}`);
  button.addEventListener("click", () => copy(text, button));
  return element;
}

/** Put a text on the clipboard and say so on the button, by its word or by its icon. */
export async function copy(text, button) {
  if (!(await written(text, button.closest("dialog") ?? document.body))) return;
  const icon = button.querySelector("use");
  const before = icon ? icon.getAttribute("href") : button.textContent;
  const show = (value) => {
    if (icon) icon.setAttribute("href", value);
    else button.textContent = value;
  };
  const after = icon ? "#i-done" : "Copied";
  if (before === after) return;
  show(after);
  document.getElementById("status").textContent = "Copied";
  setTimeout(() => show(before), 1500);
}

async function written(text, place) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Only pages from this machine or over TLS have a clipboard; the old way works for all.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    const focused = document.activeElement;
    place.append(area); // all but an open dialog is inert
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}
