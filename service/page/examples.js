// Examples of each class, which come with the model.

import { ask } from "./ask.js";

const box = document.getElementById("examples");

/** Shows a button for each example of a model, which calls `chosen(file)`; nothing for a model without any. */
export async function showExamples(name, signal, chosen) {
  box.hidden = true;
  let found = {};
  try {
    found = await ask(`models/${encodeURIComponent(name)}/samples`, undefined, signal);
  } catch {} // a convenience: the page works without
  if (signal.aborted) return;
  const items = Object.entries(found).map(([label, { file, data }]) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: label });
    button.addEventListener("click", () => chosen(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], file)));
    item.append(button);
    return item;
  });
  box.querySelector("ul").replaceChildren(...items);
  box.hidden = !items.length;
}
